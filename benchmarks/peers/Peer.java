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
import java.nio.file.StandardOpenOption;

/** The jobs on the JVM: streams and channels. The requests and the answers are those of peer.c. */
public class Peer {
    private static long began;
    private static long cpuBegan;

    private record Request(
            String job, long bytes, int block, String source, String target, int sinkPort, int senderPort) {}

    public static void main(String[] arguments) throws IOException {
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = requests.readLine()) != null; ) {
            String[] fields = line.split("\t");
            run(new Request(fields[0], Long.parseLong(fields[1]), Integer.parseInt(fields[2]), fields[3], fields[4],
                    Integer.parseInt(fields[5]), Integer.parseInt(fields[6])));
        }
    }

    private static void run(Request r) throws IOException {
        switch (r.job) {
            case "read" -> readStream(r);
            case "read-channel" -> readChannel(r);
            case "write" -> writeStream(r);
            case "send" -> sendMemory(r);
            case "send-stream" -> sendStream(r);
            case "transfer-to" -> transferTo(r);
            case "receive-stream" -> receiveStream(r);
            default -> throw new IllegalArgumentException(r.job);
        }
    }

    private static void start() {
        cpuBegan = cpu();
        began = System.nanoTime();
    }

    private static void answer(long moved) {
        long nanos = System.nanoTime() - began;
        System.out.printf("%.9f\t%.9f\t%d%n", nanos * 1e-9, (cpu() - cpuBegan) * 1e-9, moved);
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

    private static void readStream(Request r) throws IOException {
        byte[] buffer = new byte[r.block];
        long moved = 0;
        start();
        try (InputStream in = new FileInputStream(r.source)) {
            for (int count; (count = in.read(buffer)) >= 0; ) moved += count;
        }
        answer(moved);
    }

    private static void readChannel(Request r) throws IOException {
        ByteBuffer buffer = ByteBuffer.allocateDirect(r.block);
        long moved = 0;
        start();
        try (FileChannel in = FileChannel.open(Path.of(r.source))) {
            for (int count; (count = in.read(buffer.clear())) >= 0; ) moved += count;
        }
        answer(moved);
    }

    private static void writeStream(Request r) throws IOException {
        byte[] buffer = new byte[r.block];
        start();
        try (OutputStream out = new FileOutputStream(r.target)) {
            for (long left = r.bytes; left > 0; left -= Math.min(left, r.block)) {
                out.write(buffer, 0, (int) Math.min(left, r.block));
            }
        }
        answer(Files.size(Path.of(r.target)));
        Files.delete(Path.of(r.target));
    }

    private static void sendMemory(Request r) throws IOException {
        byte[] buffer = new byte[r.block];
        try (SocketChannel sink = connected(r.sinkPort)) {
            OutputStream out = sink.socket().getOutputStream();
            start();
            for (long left = r.bytes; left > 0; left -= Math.min(left, r.block)) {
                out.write(buffer, 0, (int) Math.min(left, r.block));
            }
            answer(counted(sink));
        }
    }

    private static void sendStream(Request r) throws IOException {
        byte[] buffer = new byte[r.block];
        try (SocketChannel sink = connected(r.sinkPort)) {
            OutputStream out = sink.socket().getOutputStream();
            start();
            try (InputStream in = new FileInputStream(r.source)) {
                for (int count; (count = in.read(buffer)) >= 0; ) out.write(buffer, 0, count);
            }
            answer(counted(sink));
        }
    }

    private static void transferTo(Request r) throws IOException {
        try (SocketChannel sink = connected(r.sinkPort)) {
            start();
            try (FileChannel in = FileChannel.open(Path.of(r.source))) {
                for (long done = 0; done < r.bytes; ) done += in.transferTo(done, r.bytes - done, sink);
            }
            answer(counted(sink));
        }
    }

    private static void receiveStream(Request r) throws IOException {
        byte[] buffer = new byte[r.block];
        try (SocketChannel sender = connected(r.senderPort); OutputStream out = new FileOutputStream(r.target)) {
            InputStream in = sender.socket().getInputStream();
            start();
            new DataOutputStream(sender.socket().getOutputStream()).writeLong(r.bytes);
            for (int count; (count = in.read(buffer)) >= 0; ) out.write(buffer, 0, count);
            answer(Files.size(Path.of(r.target)));
        }
        Files.delete(Path.of(r.target));
    }
}
