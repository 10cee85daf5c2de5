//! Asking a node's metrics listener whether the node is ready.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Asks `/readyz` at `host:port`; what is missing, if the node is not ready.
pub async fn ready(address: &str) -> Result<(), String> {
    match timeout(ANSWER_TIMEOUT, ask(address)).await {
        Ok(Ok(answer)) => judge(&answer),
        Ok(Err(error)) => Err(format!("http://{address}/readyz: {error}")),
        Err(_) => Err(format!("http://{address}/readyz does not answer")),
    }
}

async fn ask(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn judge(answer: &str) -> Result<(), String> {
    let status = answer.split_ascii_whitespace().nth(1).unwrap_or_default();
    if status == "200" {
        return Ok(());
    }
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim();
    Err(if body.is_empty() {
        format!("/readyz answers {status:?}")
    } else {
        body.to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_ready_or_says_why_not() {
        assert_eq!(judge("HTTP/1.1 200 OK\r\n\r\nready\n"), Ok(()));
        let not_yet = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 5\r\n\r\nno leader\n";
        assert_eq!(judge(not_yet), Err("no leader".to_owned()));
        assert!(judge("").is_err());
    }

    #[tokio::test]
    async fn a_node_that_does_not_listen_is_not_ready() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound").to_string();
        drop(listener);
        assert!(ready(&address).await.expect_err("nobody").contains(&address));
    }
}
