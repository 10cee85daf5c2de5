//! The metrics listener: `/metrics`, `/healthz`, `/readyz` over HTTP/1.1, to GET and to HEAD.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
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
    // hyper leaves out the body of an answer to HEAD, and keeps its length in the header.
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refusal = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD are served here\n".to_owned(),
        );
        let allowed = HeaderValue::from_static("GET, HEAD");
        refusal.headers_mut().insert(ALLOW, allowed);
        return Ok(refusal);
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
    let plain = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    struct NotReady;

    impl Exposition for NotReady {
        fn metrics(&self) -> String {
            "odradek_brokers 1\n".to_owned()
        }

        fn health(&self) -> Result<String, String> {
            Ok("ok".to_owned())
        }

        fn readiness(&self) -> Result<String, String> {
            Err("the quorum has no leader".to_owned())
        }
    }

    /// Head and body of the answer to a request.
    async fn ask(address: SocketAddr, method: &str, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_ascii_lowercase(), body.to_owned())
    }

    /// The lines of a head that say nothing of when it was sent.
    fn lasting(head: &str) -> Vec<&str> {
        head.lines().filter(|line| !line.starts_with("date:")).collect()
    }

    #[tokio::test]
    async fn head_is_answered_as_get_without_the_body() {
        let (listener, address) = bind("127.0.0.1:0").await.unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(NotReady)));
        for (path, status, said) in [
            ("/metrics", "200 ok", "odradek_brokers 1\n"),
            ("/healthz", "200 ok", "ok\n"),
            ("/readyz", "503 service unavailable", "the quorum has no leader\n"),
        ] {
            let (head, body) = ask(address, "GET", path).await;
            assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}");
            assert_eq!(body, said);
            let (head_alone, body) = ask(address, "HEAD", path).await;
            assert_eq!(lasting(&head_alone), lasting(&head), "{path}");
            assert_eq!(body, "");
        }
        let (head, _) = ask(address, "POST", "/readyz").await;
        assert!(head.starts_with("http/1.1 405"), "{head}");
        assert!(head.contains("allow: get, head"), "{head}");
        server.abort();
    }
}
