// A client that opens a connection and never looks at it again, and one that pools: java Idle.java
import java.io.IOException;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

public class Idle {
    public static void main(String[] arguments) throws IOException, InterruptedException {
        String host = System.getenv("ROKET_HOST");
        int port = Integer.parseInt(System.getenv("ROKET_PORT"));
        String job = System.getenv("ROKET_JOB");
        if (!System.getenv("ROKET_ROLE").equals("client")) System.exit(127);
        Object kept;
        if (job.equals("idle")) {
            kept = new Socket(host, port);
        } else if (job.equals("pool")) {
            HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
            HttpRequest request = HttpRequest.newBuilder(URI.create("http://" + host + ":" + port + "/")).build();
            client.send(request, HttpResponse.BodyHandlers.ofString());
            kept = client;
        } else {
            System.exit(127);
            return;
        }
        while (System.in.read() >= 0) { }
        System.exit(kept.hashCode() == 0 ? 0 : 0);
    }
}
