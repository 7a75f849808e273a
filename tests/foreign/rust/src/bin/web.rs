// What every server of the table serves (see ../../../web/asgi_app.py), with axum (hyper): web PORT
use axum::body::Body;
use axum::extract::Request;
use axum::http::{header::CONTENT_LENGTH, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::Router;
use futures_util::{stream, StreamExt};
use std::convert::Infallible;
use std::time::Duration;

static LARGE: [u8; 16 << 20] = [0; 16 << 20];

async fn slow() -> Response {
    let pieces = stream::iter(0..10).then(|piece| async move {
        if piece > 0 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok::<_, Infallible>(".\n")
    });
    Response::builder().header(CONTENT_LENGTH, 20).body(Body::from_stream(pieces)).unwrap()
}

async fn upload(request: Request) -> Result<String, StatusCode> {
    let mut body = request.into_body().into_data_stream();
    let mut count = 0;
    while let Some(chunk) = body.next().await {
        count += chunk.map_err(|_| StatusCode::BAD_REQUEST)?.len();
    }
    Ok(format!("{count}\n"))
}

async fn refuse() -> impl IntoResponse {
    (StatusCode::PAYLOAD_TOO_LARGE, "too large\n")
}

async fn fail() -> Response {
    let half = stream::iter([Ok(vec![0u8; 100_000]), Err("half-way through the answer")]);
    Response::builder().header(CONTENT_LENGTH, 200_000).body(Body::from_stream(half)).unwrap()
}

#[tokio::main]
async fn main() {
    let app = Router::new()
        .route("/", get(|| async { "hello\n" }))
        .route("/large", get(|| async { LARGE.as_slice() }))
        .route("/slow", get(slow))
        .route("/upload", post(upload).put(upload))
        .route("/refuse", post(refuse).put(refuse))
        .route("/fail", get(fail));
    let port = std::env::args().nth(1).expect("a port");
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await.unwrap();
    axum::serve(listener, app).await.unwrap();
}
