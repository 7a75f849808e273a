import java.io.BufferedReader;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.lang.management.ManagementFactory;
import java.net.InetSocketAddress;
import java.net.StandardSocketOptions;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.SocketChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;

/** The jobs on the JVM: streams and channels. The requests and the answers are those of peer.c. */
public class Peer {
    private static long nanos;
    private static long cpuNanos;

    private record Request(
            String job, long bytes, int block, String source, String target, int sinkPort, int senderPort) {}

    public static void main(String[] arguments) throws IOException {
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = requests.readLine()) != null; ) {
            String[] fields = line.split("\t");
            long moved = run(new Request(fields[0], Long.parseLong(fields[1]), Integer.parseInt(fields[2]), fields[3], fields[4],
                    Integer.parseInt(fields[5]), Integer.parseInt(fields[6])));
            System.out.printf(Locale.ROOT, "%.9f\t%.9f\t%d%n", nanos * 1e-9, cpuNanos * 1e-9, moved);
        }
    }

    private static long run(Request r) throws IOException {
        return switch (r.job) {
            case "read" -> readStream(r);
            case "read-channel" -> readChannel(r);
            case "write" -> writeStream(r);
            case "send" -> sendMemory(r);
            case "send-stream" -> sendStream(r);
            case "transfer-to" -> transferTo(r);
            case "receive-stream" -> receiveStream(r);
            default -> throw new IllegalArgumentException(r.job);
        };
    }

    private static void start() {
        cpuNanos = -cpu();
        nanos = -System.nanoTime();
    }

    private static void stop() {
        nanos += System.nanoTime();
        cpuNanos += cpu();
    }

    /** Of this thread, which does all of the work: the process's own time comes in steps of 10 ms (JDK 17). */
    private static long cpu() {
        return ManagementFactory.getThreadMXBean().getCurrentThreadCpuTime();
    }

    private static SocketChannel connected(int port) throws IOException {
        SocketChannel channel = SocketChannel.open(new InetSocketAddress("127.0.0.1", port));
        return channel.setOption(StandardSocketOptions.TCP_NODELAY, true);
    }

    private static long counted(SocketChannel sink) throws IOException {
        sink.shutdownOutput();
        return new DataInputStream(sink.socket().getInputStream()).readLong();
    }

    /** How large the target has become; it is gone afterwards. */
    private static long arrived(Request r) throws IOException {
        long size = Files.size(Path.of(r.target));
        Files.delete(Path.of(r.target));
        return size;
    }

    private static long readStream(Request r) throws IOException {
        byte[] buffer = new byte[r.block];
        long moved = 0;
        start();
        try (InputStream in = new FileInputStream(r.source)) {
            for (int count; (count = in.read(buffer)) >= 0; ) moved += count;
        }
        stop();
        return moved;
    }

    private static long readChannel(Request r) throws IOException {
        ByteBuffer buffer = ByteBuffer.allocateDirect(r.block);
        long moved = 0;
        start();
        try (FileChannel in = FileChannel.open(Path.of(r.source))) {
            for (int count; (count = in.read(buffer.clear())) >= 0; ) moved += count;
        }
        stop();
        return moved;
    }

    private static long writeStream(Request r) throws IOException {
        byte[] buffer = new byte[r.block];
        start();
        try (OutputStream out = new FileOutputStream(r.target)) {
            for (long left = r.bytes; left > 0; left -= Math.min(left, r.block)) {
                out.write(buffer, 0, (int) Math.min(left, r.block));
            }
        }
        stop();
        return arrived(r);
    }

    private static long sendMemory(Request r) throws IOException {
        byte[] buffer = new byte[r.block];
        try (SocketChannel sink = connected(r.sinkPort)) {
            OutputStream out = sink.socket().getOutputStream();
            start();
            for (long left = r.bytes; left > 0; left -= Math.min(left, r.block)) {
                out.write(buffer, 0, (int) Math.min(left, r.block));
            }
            long moved = counted(sink);
            stop();
            return moved;
        }
    }

    private static long sendStream(Request r) throws IOException {
        byte[] buffer = new byte[r.block];
        try (SocketChannel sink = connected(r.sinkPort)) {
            OutputStream out = sink.socket().getOutputStream();
            start();
            try (InputStream in = new FileInputStream(r.source)) {
                for (int count; (count = in.read(buffer)) >= 0; ) out.write(buffer, 0, count);
            }
            long moved = counted(sink);
            stop();
            return moved;
        }
    }

    private static long transferTo(Request r) throws IOException {
        try (SocketChannel sink = connected(r.sinkPort)) {
            start();
            try (FileChannel in = FileChannel.open(Path.of(r.source))) {
                for (long done = 0; done < r.bytes; ) done += in.transferTo(done, r.bytes - done, sink);
            }
            long moved = counted(sink);
            stop();
            return moved;
        }
    }

    private static long receiveStream(Request r) throws IOException {
        byte[] buffer = new byte[r.block];
        try (SocketChannel sender = connected(r.senderPort); OutputStream out = new FileOutputStream(r.target)) {
            InputStream in = sender.socket().getInputStream();
            start();
            new DataOutputStream(sender.socket().getOutputStream()).writeLong(r.bytes);
            for (int count; (count = in.read(buffer)) >= 0; ) out.write(buffer, 0, count);
            stop();
        }
        return arrived(r);
    }
}
