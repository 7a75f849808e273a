// The jobs in Go: io.Copy. The requests and the answers are those of peer.c.
package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type request struct {
	job                  string
	bytes, block         int64
	source, target       string
	sinkPort, senderPort string
}

var seconds, cpuSeconds float64

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

var zero = time.Now()

func cpu() time.Duration {
	var usage syscall.Rusage
	must(0, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func start() {
	cpuSeconds = -cpu().Seconds()
	seconds = -time.Since(zero).Seconds()
}

func stop() {
	seconds += time.Since(zero).Seconds()
	cpuSeconds += cpu().Seconds()
}

func connected(port string) *net.TCPConn {
	return must(net.Dial("tcp", "127.0.0.1:"+port)).(*net.TCPConn)
}

func counted(sink *net.TCPConn) int64 {
	must(0, sink.CloseWrite())
	var count uint64
	must(0, binary.Read(sink, binary.BigEndian, &count))
	return int64(count)
}

func askFor(sender *net.TCPConn, bytes int64) {
	must(0, binary.Write(sender, binary.BigEndian, uint64(bytes)))
}

func copyFile(r request) int64 {
	sink := connected(r.sinkPort)
	defer sink.Close()
	start()
	source := must(os.Open(r.source))
	must(io.Copy(sink, source))
	source.Close()
	moved := counted(sink)
	stop()
	return moved
}

func receiveFile(r request) int64 {
	sender := connected(r.senderPort)
	defer sender.Close()
	target := must(os.Create(r.target))
	defer os.Remove(r.target)
	defer target.Close()
	start()
	askFor(sender, r.bytes)
	must(io.Copy(target, sender))
	stop()
	return must(target.Stat()).Size()
}

func relay(r request) int64 {
	sender, sink := connected(r.senderPort), connected(r.sinkPort)
	defer sender.Close()
	defer sink.Close()
	start()
	askFor(sender, r.bytes)
	must(io.Copy(sink, sender))
	moved := counted(sink)
	stop()
	return moved
}

func main() {
	jobs := map[string]func(request) int64{"sendfile": copyFile, "splice": receiveFile, "relay": relay}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		f := strings.Split(lines.Text(), "\t")
		bytes, block := must(strconv.ParseInt(f[1], 10, 64)), must(strconv.ParseInt(f[2], 10, 64))
		moved := jobs[f[0]](request{f[0], bytes, block, f[3], f[4], f[5], f[6]})
		fmt.Printf("%.9f\t%.9f\t%d\n", seconds, cpuSeconds, moved)
	}
}
