// Java's HttpClient, for the jobs `http-...`.
import java.io.FileInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.Scanner;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Clients {
    static final URI URL = URI.create(System.getenv().getOrDefault("ROKET_URL", "http://127.0.0.1/"));
    static final long MILLISECONDS =
            (long) (1000 * Double.parseDouble(System.getenv().getOrDefault("ROKET_SECONDS", "60")));

    static HttpClient client() throws Exception {
        var builder = HttpClient.newBuilder();
        String name = System.getenv("ROKET_TLS_CA");
        if (name != null) {
            var store = KeyStore.getInstance(KeyStore.getDefaultType());
            store.load(null, null);
            try (var file = new FileInputStream(name)) {
                store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(file));
            }
            var trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
            trust.init(store);
            var context = SSLContext.getInstance("TLS");
            context.init(null, trust.getTrustManagers(), null);
            builder.sslContext(context);
        }
        return builder.build();
    }

    static byte[] get(HttpClient client) throws Exception {
        var future = client.sendAsync(HttpRequest.newBuilder(URL).build(), BodyHandlers.ofByteArray());
        try {
            var answer = future.get(MILLISECONDS, TimeUnit.MILLISECONDS);
            if (answer.statusCode() != 200) {
                throw new Exception("status " + answer.statusCode());
            }
            return answer.body();
        } finally {
            future.cancel(true); // since Java 16 it closes what is under way
        }
    }

    static byte[] put(HttpClient client) throws Exception {
        var body = HttpRequest.BodyPublishers.ofFile(Path.of(System.getenv("ROKET_FILE")));
        var request = HttpRequest.newBuilder(URL).PUT(body).expectContinue(true).build();
        return client.send(request, BodyHandlers.ofByteArray()).body();
    }

    static void again(HttpClient client) {
        byte[] body;
        try {
            body = get(client);
        } catch (Exception error) {
            error.printStackTrace();
            body = "failed".getBytes();
        }
        System.out.println(new String(body));
        System.out.flush();
    }

    public static void main(String[] arguments) throws Exception {
        String job = System.getenv().getOrDefault("ROKET_JOB", "");
        if (!job.startsWith("http-")) {
            System.exit(127);
        }
        var client = client();
        if (job.equals("http-get")) {
            System.out.writeBytes(get(client));
        } else if (job.equals("http-put")) {
            System.out.writeBytes(put(client));
        } else {
            again(client);
            for (var lines = new Scanner(System.in); lines.hasNextLine();) {
                lines.nextLine();
                again(client);
            }
        }
        System.out.flush();
        System.exit(0);
    }
}
