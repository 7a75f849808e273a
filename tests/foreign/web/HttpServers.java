// What every server of the table serves (see asgi_app.py), with com.sun.net.httpserver: java HttpServers PORT
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;

public class HttpServers {
    static final byte[] LARGE = new byte[16 << 20];

    static void answer(HttpExchange exchange, int status, byte[] body) throws IOException {
        exchange.sendResponseHeaders(status, body.length);
        exchange.getResponseBody().write(body);
        exchange.close();
    }

    static void slow(HttpExchange exchange) throws IOException {
        exchange.sendResponseHeaders(200, 20);
        try {
            for (int piece = 0; piece < 10; piece++) {
                exchange.getResponseBody().write(".\n".getBytes());
                exchange.getResponseBody().flush();
                Thread.sleep(200);
            }
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        } finally {
            exchange.close();
        }
    }

    static void upload(HttpExchange exchange) throws IOException {
        long count = 0;
        byte[] buffer = new byte[1 << 16];
        try (InputStream body = exchange.getRequestBody()) {
            for (int got; (got = body.read(buffer)) >= 0;) count += got;
        }
        answer(exchange, 200, (count + "\n").getBytes());
    }

    static void fail(HttpExchange exchange) throws IOException {
        exchange.sendResponseHeaders(200, 200_000);
        exchange.getResponseBody().write(new byte[100_000]);
        exchange.getResponseBody().flush();
        throw new IllegalStateException("half-way through the answer");
    }

    public static void main(String[] arguments) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])), 0);
        server.createContext("/", exchange -> {
            boolean isRoot = exchange.getRequestURI().getPath().equals("/");
            answer(exchange, isRoot ? 200 : 404, (isRoot ? "hello\n" : "not found\n").getBytes());
        });
        server.createContext("/large", exchange -> answer(exchange, 200, LARGE));
        server.createContext("/slow", HttpServers::slow);
        server.createContext("/upload", HttpServers::upload);
        server.createContext("/refuse", exchange -> answer(exchange, 413, "too large\n".getBytes()));
        server.createContext("/fail", HttpServers::fail);
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
    }
}
