// The close suite's jobs, as programs of java.net's blocking sockets do them: java Sockets.java
//
// Each job is written as the language's documentation would have it, without care beyond that: what one gets is judged.
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.FutureTask;

public class Sockets {
    interface Job {
        void run(Socket socket) throws Exception;
    }

    static final Map<String, String> ENV = System.getenv();
    static final int BYTES = Integer.parseInt(ENV.getOrDefault("ROKET_BYTES", "0"));
    static final long MILLISECONDS = (long) (1000 * Double.parseDouble(ENV.getOrDefault("ROKET_SECONDS", "0")));
    static final List<Object> KEPT = new ArrayList<>();
    static byte[] answer;

    static void start(Job job, Socket socket) {
        Thread thread = new Thread(() -> {
            try {
                job.run(socket);
            } catch (Exception error) {
                System.err.println(error);
            }
        });
        thread.setDaemon(true);
        thread.start();
    }

    static void move(InputStream source, OutputStream sink) throws IOException {
        byte[] buffer = new byte[1 << 16];
        for (int count; (count = source.read(buffer)) >= 0; sink.flush()) sink.write(buffer, 0, count);
    }

    static void pipe(Socket socket) throws Exception {
        FutureTask<Void> upload = new FutureTask<>(() -> {
            move(System.in, socket.getOutputStream());
            socket.shutdownOutput();
            return null;
        });
        start(it -> upload.run(), socket);
        move(socket.getInputStream(), System.out);
        upload.get();
        socket.close();
    }

    static void idle(Socket socket) {
        KEPT.add(socket);
    }

    static void sendClose(Socket socket) throws IOException {
        byte[] data = System.in.readNBytes(BYTES);
        try (socket) {
            socket.getOutputStream().write(data);
        }
    }

    static void closeInSend(Socket socket) throws Exception {
        start(it -> it.getOutputStream().write(new byte[BYTES]), socket);
        Thread.sleep(MILLISECONDS);
        socket.close();
    }

    static void closeInReceive(Socket socket) throws Exception {
        Thread receiver = new Thread(() -> {
            try {
                System.out.println(socket.getInputStream().read() < 0 ? "eof" : "data");
            } catch (IOException error) {
                System.out.println("closed");
            }
            System.out.flush();
        });
        receiver.start();
        Thread.sleep(MILLISECONDS);
        socket.close();
        receiver.join();
    }

    static void lateRead(Socket socket) throws Exception {
        Thread.sleep(MILLISECONDS);
        move(socket.getInputStream(), System.out);
        socket.close();
    }

    static void echo(Socket socket) throws IOException {
        try (socket) {
            move(socket.getInputStream(), socket.getOutputStream());
        }
    }

    static void earlyAnswer(Socket socket) throws IOException {
        try (socket) {
            synchronized (Sockets.class) {
                if (answer == null) answer = System.in.readNBytes(BYTES);
            }
            socket.getInputStream().read(new byte[1000]);
            socket.getOutputStream().write(answer);
        }
    }

    static void fail(Socket socket) throws IOException {
        try (socket) {
            socket.getOutputStream().write(new byte[BYTES]);
            throw new IllegalStateException("half-way through the answer");
        }
    }

    static void pool() throws Exception {
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        String address = "http://" + ENV.get("ROKET_HOST") + ":" + ENV.get("ROKET_PORT") + "/";
        client.send(HttpRequest.newBuilder(URI.create(address)).build(), HttpResponse.BodyHandlers.ofString());
        KEPT.add(client);
    }

    static final Map<String, Job> STAY = Map.of(
        "idle", Sockets::idle, "forget", socket -> { }, "send-close", Sockets::sendClose, "close-in-send", Sockets::closeInSend,
        "close-in-receive", Sockets::closeInReceive, "echo", Sockets::echo, "early-answer", Sockets::earlyAnswer, "raise", Sockets::fail);
    static final Map<String, Job> END = Map.of("pipe", Sockets::pipe, "late-read", Sockets::lateRead);

    static void stay() throws IOException {
        while (System.in.read() >= 0) { }
        System.exit(0);
    }

    public static void main(String[] arguments) throws Exception {
        String name = ENV.get("ROKET_JOB");
        boolean isClient = ENV.get("ROKET_ROLE").equals("client");
        boolean takesInput = List.of("send-close", "early-answer").contains(name);
        String host = ENV.get("ROKET_HOST");
        int port = Integer.parseInt(ENV.get("ROKET_PORT"));
        if (name.equals("pool") && isClient) {
            pool();
            stay();
        }
        Job job = STAY.getOrDefault(name, END.get(name));
        if (job == null) System.exit(127);
        if (isClient) {
            job.run(new Socket(host, port));
        } else {
            ServerSocket server = new ServerSocket(port, 50, InetAddress.getByName(host));
            if (END.containsKey(name)) {
                job.run(server.accept());
            } else {
                if (takesInput) job.run(server.accept());
                start(it -> { while (true) start(job, server.accept()); }, null);
            }
        }
        if (END.containsKey(name)) System.exit(0);
        stay();
    }
}
