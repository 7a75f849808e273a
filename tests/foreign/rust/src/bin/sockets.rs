// The close suite's jobs, as programs of tokio do them.
//
// Each job is written as tokio's documentation would have it, without care beyond that: what one gets is judged. A
// stream has one owner, so that no other task can close it: such jobs, and those of TLS, there are none here.
use std::env::var;
use std::io;
use std::io::Read;
use std::process::exit;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{copy, sink, stdin, stdout, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

static ANSWER: OnceLock<Vec<u8>> = OnceLock::new();

fn count() -> usize {
    var("ROKET_BYTES").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn pause() -> Duration {
    Duration::from_secs_f64(var("ROKET_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0.0))
}

fn read_input() -> Vec<u8> {
    let mut data = vec![0; count()];
    io::stdin().read_exact(&mut data).expect("standard input");
    data
}

async fn pipe(stream: TcpStream) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let upload = tokio::spawn(async move {
        copy(&mut stdin(), &mut writer).await?;
        writer.shutdown().await
    });
    let mut output = stdout();
    copy(&mut reader, &mut output).await?;
    output.flush().await?;
    upload.await?
}

// A connection that waits for messages: somebody reads from it.
async fn idle(mut stream: TcpStream) -> io::Result<()> {
    copy(&mut stream, &mut sink()).await?;
    Ok(())
}

async fn send_close(mut stream: TcpStream) -> io::Result<()> {
    let data = tokio::task::spawn_blocking(read_input).await?;
    stream.write_all(&data).await?;
    stream.shutdown().await
}

async fn cancel_send(mut stream: TcpStream) -> io::Result<()> {
    let data = vec![0; count()];
    timeout(pause(), stream.write_all(&data)).await?
}

async fn late_read(mut stream: TcpStream) -> io::Result<()> {
    sleep(pause()).await;
    let mut output = stdout();
    copy(&mut stream, &mut output).await?;
    output.flush().await
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    copy(&mut reader, &mut writer).await?;
    Ok(())
}

async fn early_answer(mut stream: TcpStream) -> io::Result<()> {
    let data = tokio::task::spawn_blocking(|| ANSWER.get_or_init(read_input)).await?;
    let mut head = [0; 1000];
    stream.read(&mut head).await?;
    stream.write_all(data).await
}

async fn fail(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(&vec![0; count()]).await?;
    panic!("half-way through the answer");
}

async fn run(job: &str, stream: TcpStream) -> io::Result<()> {
    match job {
        "pipe" => pipe(stream).await,
        "idle" => idle(stream).await,
        "send-close" => send_close(stream).await,
        "cancel-send" | "cancel-close" => cancel_send(stream).await,
        "late-read" => late_read(stream).await,
        "echo" => echo(stream).await,
        "early-answer" => early_answer(stream).await,
        "forget" => Ok(()), // what a handler does not give away is closed at its end
        "raise" => fail(stream).await,
        _ => exit(127),
    }
}

fn report(result: &io::Result<()>) {
    if let Err(error) = result {
        eprintln!("{error}");
    }
}

fn stay() -> ! {
    let mut input = io::stdin().lock();
    let mut buffer = [0; 4096];
    while !matches!(input.read(&mut buffer), Ok(0) | Err(_)) {}
    exit(0)
}

#[tokio::main]
async fn main() {
    let job = var("ROKET_JOB").expect("ROKET_JOB");
    let known = ["pipe", "idle", "send-close", "cancel-send", "cancel-close", "late-read", "echo", "early-answer", "forget", "raise"];
    if !known.contains(&job.as_str()) {
        exit(127);
    }
    let ends = ["pipe", "late-read"].contains(&job.as_str());
    let takes_input = ["send-close", "early-answer"].contains(&job.as_str());
    let address = format!("{}:{}", var("ROKET_HOST").unwrap(), var("ROKET_PORT").unwrap());
    let finished = Arc::new(Notify::new());
    let tell = finished.clone();
    if var("ROKET_ROLE").unwrap() == "client" {
        let stream = TcpStream::connect(&address).await.expect("connect");
        let name = job.clone();
        let running = tokio::spawn(async move { run(&name, stream).await });
        if ends || takes_input {
            let result = running.await.expect("the job");
            report(&result);
            if ends {
                exit(i32::from(result.is_err()));
            }
        }
    } else {
        let listener = TcpListener::bind(&address).await.expect("bind");
        tokio::spawn(async move {
            loop {
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        eprintln!("{error}");
                        sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let (name, tell) = (job.clone(), tell.clone());
                tokio::spawn(async move {
                    let result = run(&name, stream).await;
                    report(&result);
                    if ends {
                        exit(i32::from(result.is_err()));
                    }
                    tell.notify_one();
                });
            }
        });
        if ends || takes_input {
            finished.notified().await;
        }
    }
    tokio::task::spawn_blocking(|| stay()).await.expect("standard input");
}
