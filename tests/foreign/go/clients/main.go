// Go's net/http client, for the jobs `http-...`.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

var url = os.Getenv("ROKET_URL")

func client() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if name := os.Getenv("ROKET_TLS_CA"); name != "" {
		pem, err := os.ReadFile(name)
		if err != nil {
			panic(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return &http.Client{Transport: transport}
}

func get(client *http.Client, limit time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != 200 {
		return nil, fmt.Errorf("status %d", answer.StatusCode)
	}
	return io.ReadAll(answer.Body)
}

func put(client *http.Client) ([]byte, error) {
	file, err := os.Open(os.Getenv("ROKET_FILE"))
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequest("PUT", url, file)
	if err != nil {
		return nil, err
	}
	request.ContentLength = info.Size()
	request.Header.Set("Expect", "100-continue")
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	return io.ReadAll(answer.Body)
}

func once(body []byte, err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Stdout.Write(body)
}

func again(client *http.Client, limit time.Duration) {
	body, err := get(client, limit)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		body = []byte("failed")
	}
	os.Stdout.Write(append(body, '\n'))
}

func main() {
	limit := time.Minute
	if seconds, err := strconv.ParseFloat(os.Getenv("ROKET_SECONDS"), 64); err == nil {
		limit = time.Duration(seconds * float64(time.Second))
	}
	client := client()
	switch job := os.Getenv("ROKET_JOB"); {
	case job == "http-get":
		once(get(client, limit))
	case job == "http-put":
		once(put(client))
	case strings.HasPrefix(job, "http-"):
		again(client, limit)
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			again(client, limit)
		}
	default:
		os.Exit(127)
	}
}
