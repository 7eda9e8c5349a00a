import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/** An HTTP counter on a thread pool, with timers running: "/" answers the next number, "/ticks" the timers' work. */
public class Counter {
    public static void main(String[] arguments) throws Exception {
        var count = new AtomicLong();
        var fast = new AtomicLong();
        var slow = new AtomicLong();
        var timers = Executors.newScheduledThreadPool(2);
        timers.scheduleAtFixedRate(fast::incrementAndGet, 1, 1, TimeUnit.MILLISECONDS);
        timers.scheduleWithFixedDelay(slow::incrementAndGet, 50, 50, TimeUnit.MILLISECONDS);
        var server = HttpServer.create(new InetSocketAddress("0.0.0.0", Integer.parseInt(arguments[0])), 64);
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.createContext("/", exchange -> {
            String answer;
            if (exchange.getRequestURI().getPath().equals("/ticks")) {
                answer = fast.get() + " " + slow.get() + "\n";
            } else if (exchange.getRequestURI().getPath().equals("/count")) {
                answer = count.get() + "\n";
            } else {
                answer = count.incrementAndGet() + "\n";
            }
            var bytes = answer.getBytes();
            exchange.sendResponseHeaders(200, bytes.length);
            exchange.getResponseBody().write(bytes);
            exchange.close();
        });
        server.start();
        System.out.println("ready");
    }
}
