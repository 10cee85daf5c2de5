//! The metrics listener: `/metrics`, `/healthz`, `/readyz` over HTTP/1.1.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Requests served at once; more wait in the backlog.
const CONNECTIONS_MAX: usize = 64;
/// A client that sends no whole request header in this time is dropped.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the listener shows.
pub trait Exposition: Send + Sync + 'static {
    /// The text of `/metrics`. May take a while with many partitions.
    fn metrics(&self) -> String;
    /// Whether the process works, and why not.
    fn health(&self) -> Result<String, String>;
    /// Whether the node serves, and why not yet.
    fn readiness(&self) -> Result<String, String>;
}

/// Serves until the listener fails.
///
/// # Errors
/// The address is in use or not of this machine.
pub async fn bind(address: &str) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// Serves every connection, for ever.
pub async fn serve(listener: TcpListener, exposition: Arc<dyn Exposition>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = places
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: those in use are given back in time.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let exposition = exposition.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(exposition.clone(), request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // A client that went away is its own business.
            _ = connection.await;
            drop(place);
        });
    }
}

async fn answer(
    exposition: Arc<dyn Exposition>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET {
        return Ok(text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is served here\n".to_owned(),
        ));
    }
    let path = request.uri().path().to_owned();
    let answered = tokio::task::spawn_blocking(move || route(&*exposition, &path)).await;
    Ok(answered.unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "see the log\n".to_owned())))
}

fn route(exposition: &dyn Exposition, path: &str) -> Response<Full<Bytes>> {
    let state = |state: Result<String, String>| match state {
        Ok(reason) => text(StatusCode::OK, reason + "\n"),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
    };
    match path {
        "/metrics" => text(StatusCode::OK, exposition.metrics()),
        "/healthz" => state(exposition.health()),
        "/readyz" => state(exposition.readiness()),
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /metrics, /healthz and /readyz\n".to_owned(),
        ),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let plain = "text/plain; version=0.0.4; charset=utf-8"
        .parse()
        .expect("a constant header value");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
