import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;

/** An app that knows nothing of being stopped. */
public final class Server {
    public static void main(String[] arguments) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress("0.0.0.0", 8080), 128);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", Server::answer);
        server.start();
    }

    private static void answer(HttpExchange exchange) throws IOException {
        String query = exchange.getRequestURI().getQuery();
        long ms = query == null ? 0 : Long.parseLong(query.substring(query.indexOf("ms=") + 3));
        String path = exchange.getRequestURI().getPath();
        try {
            if (path.equals("/stream")) {
                exchange.sendResponseHeaders(200, 0);
                OutputStream body = exchange.getResponseBody();
                long end = System.nanoTime() + ms * 1_000_000;
                for (long left = ms; left > 0; left = (end - System.nanoTime()) / 1_000_000) {
                    body.write("more\n".getBytes());
                    body.flush();
                    Thread.sleep(Math.min(200, left));
                }
                body.write("end\n".getBytes());
            } else if (path.equals("/upload")) {
                long taken = exchange.getRequestBody().readAllBytes().length;
                whole(exchange, "taken " + taken + "\n");
            } else {
                Thread.sleep(ms);
                whole(exchange, "done\n");
            }
        } catch (InterruptedException stopped) {
            Thread.currentThread().interrupt();
        } finally {
            exchange.close();
        }
    }

    private static void whole(HttpExchange exchange, String text) throws IOException {
        byte[] body = text.getBytes();
        exchange.sendResponseHeaders(200, body.length);
        exchange.getResponseBody().write(body);
    }
}
