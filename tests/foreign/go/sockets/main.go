// The close suite's jobs, as programs of Go's net package do them.
//
// Each job is written as the language's documentation would have it, without care beyond that: what one gets is judged.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

var (
	count, _   = strconv.Atoi(os.Getenv("ROKET_BYTES"))
	seconds, _ = strconv.ParseFloat(os.Getenv("ROKET_SECONDS"), 64)
	pause      = time.Duration(seconds * float64(time.Second))
	once       sync.Once
	prepared   []byte
)

func readInput() []byte {
	data := make([]byte, count)
	if _, err := io.ReadFull(os.Stdin, data); err != nil {
		log.Print(err)
	}
	return data
}

func pipe(conn net.Conn) error {
	defer conn.Close()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, os.Stdin)
		if err == nil {
			err = conn.(*net.TCPConn).CloseWrite()
		}
		sent <- err
	}()
	if _, err := io.Copy(os.Stdout, conn); err != nil {
		return err
	}
	return <-sent
}

// A connection that waits for messages: somebody reads from it.
func idle(conn net.Conn) error {
	defer conn.Close()
	_, err := io.Copy(io.Discard, conn)
	return err
}

func sendClose(conn net.Conn) error {
	defer conn.Close()
	_, err := conn.Write(readInput())
	return err
}

func cancelSend(conn net.Conn) error {
	defer conn.Close()
	conn.SetWriteDeadline(time.Now().Add(pause))
	_, err := conn.Write(make([]byte, count))
	return err
}

func closeInSend(conn net.Conn) error {
	go conn.Write(make([]byte, count))
	time.Sleep(pause)
	return conn.Close()
}

func closeInReceive(conn net.Conn) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := conn.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			fmt.Println("eof")
		} else if err != nil {
			fmt.Println("closed")
		}
	}()
	time.Sleep(pause)
	err := conn.Close()
	<-done
	return err
}

func lateRead(conn net.Conn) error {
	defer conn.Close()
	time.Sleep(pause)
	_, err := io.Copy(os.Stdout, conn)
	return err
}

func echo(conn net.Conn) error {
	defer conn.Close()
	_, err := io.Copy(conn, conn)
	return err
}

func earlyAnswer(conn net.Conn) error {
	defer conn.Close()
	once.Do(func() { prepared = readInput() })
	if _, err := conn.Read(make([]byte, 1000)); err != nil {
		return err
	}
	_, err := conn.Write(prepared)
	return err
}

func forget(conn net.Conn) error { return nil }

// A panic ends the whole program unless somebody recovers: net/http does it in this way.
func fail(conn net.Conn) error {
	defer conn.Close()
	defer func() { log.Print(recover()) }()
	conn.Write(make([]byte, count))
	panic("half-way through the answer")
}

func secured(conn net.Conn) net.Conn {
	if os.Getenv("ROKET_ROLE") == "client" {
		roots := x509.NewCertPool()
		pem, _ := os.ReadFile(os.Getenv("ROKET_TLS_CA"))
		roots.AppendCertsFromPEM(pem)
		return tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "localhost"})
	}
	file := os.Getenv("ROKET_TLS_CERT")
	pair, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		log.Fatal(err)
	}
	return tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pair}})
}

func tlsRead(conn net.Conn) error {
	secure := secured(conn)
	defer secure.Close()
	_, err := io.Copy(os.Stdout, secure)
	return err
}

func tlsSendClose(conn net.Conn) error {
	secure := secured(conn)
	if err := secure.(*tls.Conn).Handshake(); err != nil {
		return err
	}
	return sendClose(secure)
}

var stays = map[string]func(net.Conn) error{
	"idle": idle, "send-close": sendClose, "cancel-send": cancelSend, "cancel-close": cancelSend,
	"close-in-send": closeInSend, "close-in-receive": closeInReceive, "echo": echo, "early-answer": earlyAnswer,
	"forget": forget, "raise": fail, "tls-send-close": tlsSendClose,
}
var ends = map[string]func(net.Conn) error{"pipe": pipe, "late-read": lateRead, "tls-read": tlsRead}
var takesInput = map[string]bool{"send-close": true, "early-answer": true, "tls-send-close": true}

func finish(err error) {
	if err != nil {
		log.Fatal(err)
	}
	os.Exit(0)
}

func report(job func(net.Conn) error, conn net.Conn) {
	if err := job(conn); err != nil {
		log.Print(err)
	}
}

func stay() {
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func main() {
	name := os.Getenv("ROKET_JOB")
	address := net.JoinHostPort(os.Getenv("ROKET_HOST"), os.Getenv("ROKET_PORT"))
	isClient := os.Getenv("ROKET_ROLE") == "client"
	if name == "pool" && isClient {
		answer, err := http.Get("http://" + address + "/")
		if err != nil {
			log.Fatal(err)
		}
		io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		stay()
	}
	job, isStaying := stays[name]
	if !isStaying {
		job = ends[name]
	}
	if job == nil {
		os.Exit(127)
	}
	if isClient {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			log.Fatal(err)
		}
		if !isStaying {
			finish(job(conn))
		}
		if takesInput[name] {
			report(job, conn)
		} else {
			go report(job, conn)
		}
		stay()
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	first := make(chan struct{})
	var served sync.Once
	accept := func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				log.Print(err)
				time.Sleep(100 * time.Millisecond)
				continue
			}
			if !isStaying {
				finish(job(conn))
			}
			go func() {
				report(job, conn)
				served.Do(func() { close(first) })
			}()
		}
	}
	go accept()
	if takesInput[name] || !isStaying {
		<-first
	}
	stay()
}
