/* The jobs in C: read and write, send, sendfile, splice. It does each line of its standard input,

       JOB <tab> BYTES <tab> BLOCK <tab> SOURCE <tab> TARGET <tab> PORT OF THE SINK <tab> PORT OF THE SENDER

   and answers with the seconds, the CPU seconds and the bytes that arrived. What is timed is what the Python ways time:
   connecting is not, the wait for the sink's count is. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <err.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PIPE = 1 << 20 };

typedef struct {
    const char *job, *source, *target;
    uint64_t bytes;
    size_t block;
    int sink_port, sender_port;
} Request;

static double seconds_of(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

static double seconds, cpu_seconds;

static void start(void) {
    cpu_seconds = -seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    seconds = -seconds_of(CLOCK_MONOTONIC);
}

static void stop(void) {
    seconds += seconds_of(CLOCK_MONOTONIC);
    cpu_seconds += seconds_of(CLOCK_PROCESS_CPUTIME_ID);
}

static ssize_t must(ssize_t result, const char *what) {
    if (result < 0) err(1, "%s", what);
    return result;
}

static int connected(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int sock = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"), on = 1;
    must(connect(sock, (struct sockaddr *)&address, sizeof address), "connect");
    must(setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), "TCP_NODELAY");
    return sock;
}

static void ask_for(int sender, uint64_t bytes) {
    uint64_t told = htobe64(bytes);
    must(send(sender, &told, sizeof told, 0), "send");
}

static uint64_t counted(int sink) {
    uint64_t count;
    must(shutdown(sink, SHUT_WR), "shutdown");
    if (must(recv(sink, &count, sizeof count, MSG_WAITALL), "recv") != sizeof count) errx(1, "no count");
    return be64toh(count);
}

static void *buffer_of(size_t size) {
    void *buffer = malloc(size);
    if (!buffer) err(1, "malloc");
    return memset(buffer, 0, size);
}

static uint64_t read_file(const Request *r) {
    char *buffer = buffer_of(r->block);
    uint64_t moved = 0;
    start();
    int file = must(open(r->source, O_RDONLY | O_CLOEXEC), r->source);
    for (ssize_t count; (count = must(read(file, buffer, r->block), "read"));) moved += count;
    close(file);
    stop();
    free(buffer);
    return moved;
}

/* How large the target has become; it is gone afterwards. */
static uint64_t arrived(const Request *r) {
    struct stat status;
    must(stat(r->target, &status), r->target);
    unlink(r->target);
    return status.st_size;
}

static uint64_t write_file(const Request *r) {
    char *buffer = buffer_of(r->block);
    start();
    int file = must(open(r->target, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666), r->target);
    for (uint64_t left = r->bytes; left;) left -= must(write(file, buffer, left < r->block ? left : r->block), "write");
    close(file);
    stop();
    free(buffer);
    return arrived(r);
}

static uint64_t send_memory(const Request *r) {
    char *buffer = buffer_of(r->block);
    int sink = connected(r->sink_port);
    start();
    for (uint64_t left = r->bytes; left;) {
        size_t item = left < r->block ? left : r->block;
        for (size_t done = 0; done < item;) done += must(send(sink, buffer + done, item - done, 0), "send");
        left -= item;
    }
    uint64_t moved = counted(sink);
    stop();
    close(sink);
    free(buffer);
    return moved;
}

static uint64_t receive_memory(const Request *r) {
    char *buffer = buffer_of(r->block);
    int sender = connected(r->sender_port);
    uint64_t moved = 0;
    start();
    ask_for(sender, r->bytes);
    for (ssize_t count; (count = must(recv(sender, buffer, r->block, 0), "recv"));) moved += count;
    stop();
    close(sender);
    free(buffer);
    return moved;
}

static uint64_t send_file(const Request *r) {
    int sink = connected(r->sink_port);
    start();
    int file = must(open(r->source, O_RDONLY | O_CLOEXEC), r->source);
    for (uint64_t left = r->bytes; left;) left -= must(sendfile(sink, file, NULL, left), "sendfile");
    close(file);
    uint64_t moved = counted(sink);
    stop();
    close(sink);
    return moved;
}

/* From a socket into whatever takes it, through a pipe. */
static void splice_all(int from, int to) {
    int ends[2];
    must(pipe2(ends, O_CLOEXEC), "pipe2");
    must(fcntl(ends[1], F_SETPIPE_SZ, PIPE), "F_SETPIPE_SZ");
    for (ssize_t held; (held = must(splice(from, NULL, ends[1], NULL, PIPE, SPLICE_F_MOVE), "splice"));)
        while (held) held -= must(splice(ends[0], NULL, to, NULL, held, SPLICE_F_MOVE), "splice");
    close(ends[0]);
    close(ends[1]);
}

static uint64_t receive_file(const Request *r) {
    int sender = connected(r->sender_port);
    int file = must(open(r->target, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666), r->target);
    start();
    ask_for(sender, r->bytes);
    splice_all(sender, file);
    stop();
    close(file);
    close(sender);
    return arrived(r);
}

static uint64_t relay(const Request *r) {
    int sender = connected(r->sender_port), sink = connected(r->sink_port);
    start();
    ask_for(sender, r->bytes);
    splice_all(sender, sink);
    uint64_t moved = counted(sink);
    stop();
    close(sender);
    close(sink);
    return moved;
}

static const struct {
    const char *name;
    uint64_t (*run)(const Request *);
} JOBS[] = {
    {"read", read_file},       {"write", write_file},    {"send", send_memory}, {"receive", receive_memory},
    {"sendfile", send_file}, {"splice", receive_file}, {"relay", relay},
};

int main(void) {
    static char line[8192];
    while (fgets(line, sizeof line, stdin)) {
        char *fields[7] = {NULL}, *rest = line;
        for (int field = 0; field < 7; field++) fields[field] = strsep(&rest, "\t\n");
        if (!fields[6]) errx(2, "a request has seven fields");
        Request request = {fields[0],          fields[3],       fields[4], strtoull(fields[1], NULL, 10),
                           strtoull(fields[2], NULL, 10), atoi(fields[5]), atoi(fields[6])};
        size_t job = 0;
        while (strcmp(JOBS[job].name, request.job))
            if (++job == sizeof JOBS / sizeof *JOBS) errx(2, "no such job: %s", request.job);
        uint64_t moved = JOBS[job].run(&request);
        printf("%.9f\t%.9f\t%llu\n", seconds, cpu_seconds, (unsigned long long)moved);
        fflush(stdout);
    }
}
