// The close suite's jobs, as programs of netty do them.
//
// Each job is written as netty's user guide and examples have it: a handler in a pipeline, writeAndFlush, close as a
// listener of the last write. What one gets is judged.
import io.netty.bootstrap.Bootstrap;
import io.netty.bootstrap.ServerBootstrap;
import io.netty.buffer.ByteBuf;
import io.netty.buffer.Unpooled;
import io.netty.channel.ChannelFutureListener;
import io.netty.channel.ChannelHandler;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInboundHandlerAdapter;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.ChannelOption;
import io.netty.channel.EventLoopGroup;
import io.netty.channel.MultiThreadIoEventLoopGroup;
import io.netty.channel.nio.NioIoHandler;
import io.netty.channel.socket.ChannelInputShutdownReadComplete;
import io.netty.channel.socket.DuplexChannel;
import io.netty.channel.socket.SocketChannel;
import io.netty.channel.socket.nio.NioServerSocketChannel;
import io.netty.channel.socket.nio.NioSocketChannel;
import io.netty.handler.ssl.SslContext;
import io.netty.handler.ssl.SslContextBuilder;
import io.netty.util.ReferenceCountUtil;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

public class NettySockets {
    static final Map<String, String> ENV = System.getenv();
    static final String JOB = ENV.get("ROKET_JOB");
    static final int BYTES = Integer.parseInt(ENV.getOrDefault("ROKET_BYTES", "0"));
    static final long MILLISECONDS = (long) (1000 * Double.parseDouble(ENV.getOrDefault("ROKET_SECONDS", "0")));
    static final CountDownLatch DONE = new CountDownLatch(1);
    static volatile boolean failed;
    static byte[] answer;

    static synchronized byte[] answer() throws IOException {
        if (answer == null) answer = System.in.readNBytes(BYTES);
        return answer;
    }

    /** What all handlers do with a failure: the user guide's lines. */
    static class Handler extends ChannelInboundHandlerAdapter {
        @Override
        public void channelRead(ChannelHandlerContext context, Object message) throws Exception {
            ReferenceCountUtil.release(message);
        }

        @Override
        public void exceptionCaught(ChannelHandlerContext context, Throwable cause) {
            System.err.println(cause);
            failed = true;
            context.close();
        }

        @Override
        public void channelInactive(ChannelHandlerContext context) {
            DONE.countDown();
        }
    }

    static class Output extends Handler {
        @Override
        public void channelRead(ChannelHandlerContext context, Object message) throws IOException {
            ByteBuf data = (ByteBuf) message;
            try {
                data.readBytes(System.out, data.readableBytes());
                System.out.flush();
            } finally {
                data.release();
            }
        }
    }

    static class Pipe extends Output {
        boolean hasSent;
        boolean hasReceived;

        @Override
        public void channelActive(ChannelHandlerContext context) {
            Thread upload = new Thread(() -> upload(context));
            upload.setDaemon(true);
            upload.start();
        }

        void upload(ChannelHandlerContext context) {
            byte[] buffer = new byte[1 << 16];
            try {
                for (int count; (count = System.in.read(buffer)) >= 0;) {
                    context.writeAndFlush(Unpooled.copiedBuffer(buffer, 0, count)).sync();
                }
                ((DuplexChannel) context.channel()).shutdownOutput().sync();
            } catch (Exception error) {
                System.err.println(error);
                failed = true;
            }
            context.executor().execute(() -> {
                hasSent = true;
                closeAtTheEnd(context);
            });
        }

        @Override
        public void userEventTriggered(ChannelHandlerContext context, Object event) {
            if (event instanceof ChannelInputShutdownReadComplete) {
                hasReceived = true;
                closeAtTheEnd(context);
            }
        }

        void closeAtTheEnd(ChannelHandlerContext context) {
            if (hasSent && hasReceived) context.close();
        }
    }

    static class SendClose extends Handler {
        @Override
        public void channelActive(ChannelHandlerContext context) {
            context.channel().config().setAutoRead(JOB.startsWith("tls")); // it receives nothing
            Thread thread = new Thread(() -> {
                try {
                    context.writeAndFlush(Unpooled.wrappedBuffer(answer())).addListener(ChannelFutureListener.CLOSE);
                } catch (IOException error) {
                    System.err.println(error);
                }
            });
            thread.setDaemon(true);
            thread.start();
        }
    }

    /** A write cannot be cancelled once it is on its way; a channel can be closed. */
    static class CloseInSend extends Handler {
        @Override
        public void channelActive(ChannelHandlerContext context) {
            context.writeAndFlush(Unpooled.wrappedBuffer(new byte[BYTES]));
            context.executor().schedule(() -> context.close(), MILLISECONDS, TimeUnit.MILLISECONDS);
        }
    }

    static class LateRead extends Output {
        @Override
        public void channelActive(ChannelHandlerContext context) {
            context.executor().schedule(() -> {
                context.channel().config().setAutoRead(true);
            }, MILLISECONDS, TimeUnit.MILLISECONDS);
        }
    }

    static class Echo extends Handler {
        @Override
        public void channelRead(ChannelHandlerContext context, Object message) {
            context.write(message);
        }

        @Override
        public void channelReadComplete(ChannelHandlerContext context) {
            context.flush();
        }

        @Override
        public void userEventTriggered(ChannelHandlerContext context, Object event) {
            if (event instanceof ChannelInputShutdownReadComplete) {
                context.writeAndFlush(Unpooled.EMPTY_BUFFER).addListener(ChannelFutureListener.CLOSE);
            }
        }
    }

    static class EarlyAnswer extends Handler {
        boolean hasAnswered;

        @Override
        public void channelRead(ChannelHandlerContext context, Object message) throws Exception {
            ReferenceCountUtil.release(message);
            if (hasAnswered) return;
            hasAnswered = true;
            context.channel().config().setAutoRead(false); // receive no more
            context.writeAndFlush(Unpooled.wrappedBuffer(answer())).addListener(ChannelFutureListener.CLOSE);
        }
    }

    static class Fail extends Handler {
        @Override
        public void channelActive(ChannelHandlerContext context) {
            context.writeAndFlush(Unpooled.wrappedBuffer(new byte[BYTES]));
            throw new IllegalStateException("half-way through the answer");
        }
    }

    static final Map<String, Supplier<Handler>> HANDLERS = Map.ofEntries(
        Map.entry("pipe", Pipe::new), Map.entry("idle", Handler::new), Map.entry("send-close", SendClose::new),
        Map.entry("close-in-send", CloseInSend::new), Map.entry("late-read", LateRead::new),
        Map.entry("echo", Echo::new), Map.entry("early-answer", EarlyAnswer::new), Map.entry("forget", Handler::new),
        Map.entry("raise", Fail::new), Map.entry("tls-read", Output::new), Map.entry("tls-send-close", SendClose::new));
    static final List<String> ENDS = List.of("pipe", "late-read", "tls-read");

    static SslContext tls() throws Exception {
        if (ENV.get("ROKET_ROLE").equals("client")) {
            return SslContextBuilder.forClient().trustManager(new File(ENV.get("ROKET_TLS_CA"))).build();
        }
        String pair = ENV.get("ROKET_TLS_CERT");
        try (InputStream chain = new FileInputStream(pair); InputStream key = new FileInputStream(pair)) {
            return SslContextBuilder.forServer(chain, key).build();
        }
    }

    static ChannelHandler initializer(SslContext tls) {
        return new ChannelInitializer<SocketChannel>() {
            @Override
            protected void initChannel(SocketChannel channel) {
                if (tls != null) {
                    boolean isClient = ENV.get("ROKET_ROLE").equals("client");
                    channel.pipeline().addLast(
                        isClient ? tls.newHandler(channel.alloc(), "localhost", 443) : tls.newHandler(channel.alloc()));
                }
                channel.pipeline().addLast(HANDLERS.get(JOB).get());
            }
        };
    }

    public static void main(String[] arguments) throws Exception {
        if (!HANDLERS.containsKey(JOB)) System.exit(127);
        String host = ENV.get("ROKET_HOST");
        int port = Integer.parseInt(ENV.get("ROKET_PORT"));
        boolean halfClosure = JOB.equals("pipe") || JOB.equals("echo");
        boolean autoRead = !JOB.equals("late-read");
        SslContext tls = JOB.startsWith("tls") ? tls() : null;
        EventLoopGroup group = new MultiThreadIoEventLoopGroup(NioIoHandler.newFactory());
        if (ENV.get("ROKET_ROLE").equals("client")) {
            new Bootstrap().group(group).channel(NioSocketChannel.class)
                .option(ChannelOption.ALLOW_HALF_CLOSURE, halfClosure).option(ChannelOption.AUTO_READ, autoRead)
                .handler(initializer(tls)).connect(host, port).sync();
        } else {
            new ServerBootstrap().group(group).channel(NioServerSocketChannel.class)
                .childOption(ChannelOption.ALLOW_HALF_CLOSURE, halfClosure)
                .childOption(ChannelOption.AUTO_READ, autoRead)
                .childHandler(initializer(tls)).bind(host, port).sync();
        }
        if (ENDS.contains(JOB)) {
            DONE.await();
            System.exit(failed ? 1 : 0);
        }
        if (List.of("send-close", "early-answer", "tls-send-close").contains(JOB)) DONE.await();
        while (System.in.read() >= 0) { }
        System.exit(0);
    }
}
