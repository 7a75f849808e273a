// The close suite's jobs, as programs of ktor's raw sockets do them.
//
// Each job is written as ktor's documentation has it: `aSocket(selector).tcp()`, a read channel and a write channel
// with autoFlush, `use` or `close()` at the end. What one gets is judged.
import io.ktor.network.sockets.ServerSocket
import io.ktor.network.sockets.Socket
import io.ktor.network.sockets.aSocket
import io.ktor.network.sockets.openReadChannel
import io.ktor.network.sockets.openWriteChannel
import io.ktor.utils.io.ByteReadChannel
import io.ktor.utils.io.ByteWriteChannel
import io.ktor.utils.io.readAvailable
import io.ktor.utils.io.writeFully
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.CoroutineExceptionHandler
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.delay
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeoutOrNull
import kotlin.system.exitProcess

val environment: Map<String, String> = System.getenv()
val job: String = environment.getValue("ROKET_JOB")
val bytes: Int = (environment["ROKET_BYTES"] ?: "0").toInt()
val milliseconds: Long = ((environment["ROKET_SECONDS"] ?: "0").toDouble() * 1000).toLong()
val kept = mutableListOf<Any>()
var answer: ByteArray? = null

suspend fun move(source: ByteReadChannel, write: suspend (ByteArray, Int) -> Unit) {
    val buffer = ByteArray(1 shl 16)
    while (true) {
        val count = source.readAvailable(buffer, 0, buffer.size)
        if (count < 0) return
        write(buffer, count)
    }
}

suspend fun toOutput(source: ByteReadChannel) = move(source) { buffer, count ->
    System.out.write(buffer, 0, count)
    System.out.flush()
}

suspend fun pipe(socket: Socket) {
    val input = socket.openReadChannel()
    val output = socket.openWriteChannel(autoFlush = true)
    coroutineScope {
        launch(Dispatchers.IO) {
            val buffer = ByteArray(1 shl 16)
            while (true) {
                val count = System.`in`.read(buffer)
                if (count < 0) break
                output.writeFully(buffer, 0, count)
            }
            output.finish()
        }
        toOutput(input)
    }
    socket.close()
}

// A connection that waits for messages, as the documentation's client does: where the read channel ends, it closes.
suspend fun idle(socket: Socket) {
    val input = socket.openReadChannel()
    kept += socket.openWriteChannel(autoFlush = true)
    move(input) { _, _ -> }
    socket.close()
}

suspend fun sendClose(socket: Socket) {
    val data = System.`in`.readNBytes(bytes)
    val output = socket.openWriteChannel(autoFlush = true)
    output.writeFully(data, 0, data.size)
    socket.close()
}

suspend fun cancelSend(socket: Socket) {
    val output = socket.openWriteChannel(autoFlush = true)
    withTimeoutOrNull(milliseconds) { output.writeFully(ByteArray(bytes), 0, bytes) }
    socket.close()
}

suspend fun closeInSend(socket: Socket) = coroutineScope {
    val output = socket.openWriteChannel(autoFlush = true)
    launch {
        try {
            output.writeFully(ByteArray(bytes), 0, bytes)
        } catch (error: Exception) {
            System.err.println(error)
        }
    }
    delay(milliseconds)
    socket.close()
}

suspend fun closeInReceive(socket: Socket) = coroutineScope {
    val input = socket.openReadChannel()
    launch {
        val word = try {
            if (input.readAvailable(ByteArray(1), 0, 1) < 0) "eof" else "data"
        } catch (error: Exception) {
            "closed"
        }
        println(word)
        System.out.flush()
    }
    delay(milliseconds)
    socket.close()
}

suspend fun lateRead(socket: Socket) {
    delay(milliseconds)
    toOutput(socket.openReadChannel())
    socket.close()
}

suspend fun echo(socket: Socket) {
    val input = socket.openReadChannel()
    val output = socket.openWriteChannel(autoFlush = true)
    move(input) { buffer, count -> output.writeFully(buffer, 0, count) }
    socket.close()
}

suspend fun earlyAnswer(socket: Socket) {
    val data = answer ?: System.`in`.readNBytes(bytes).also { answer = it }
    val input = socket.openReadChannel()
    val output = socket.openWriteChannel(autoFlush = true)
    input.readAvailable(ByteArray(1000), 0, 1000)
    output.writeFully(data, 0, data.size)
    socket.close()
}

suspend fun forget(socket: Socket) {
    socket.openReadChannel()
    socket.openWriteChannel(autoFlush = true)
}

suspend fun fail(socket: Socket) {
    try {
        val output = socket.openWriteChannel(autoFlush = true)
        output.writeFully(ByteArray(bytes), 0, bytes)
        throw IllegalStateException("half-way through the answer")
    } finally {
        socket.close()
    }
}

val stays: Map<String, suspend (Socket) -> Unit> = mapOf(
    "idle" to ::idle, "send-close" to ::sendClose, "cancel-send" to ::cancelSend, "cancel-close" to ::cancelSend,
    "close-in-send" to ::closeInSend, "close-in-receive" to ::closeInReceive, "echo" to ::echo,
    "early-answer" to ::earlyAnswer, "forget" to ::forget, "raise" to ::fail,
)
val ends: Map<String, suspend (Socket) -> Unit> = mapOf("pipe" to ::pipe, "late-read" to ::lateRead)

fun stay() {
    while (System.`in`.read() >= 0) { }
    exitProcess(0)
}

fun main() {
    val handler = stays[job] ?: ends[job] ?: exitProcess(127)
    val takesInput = job == "send-close" || job == "early-answer"
    val host = environment.getValue("ROKET_HOST")
    val port = environment.getValue("ROKET_PORT").toInt()
    val complain = CoroutineExceptionHandler { _, error -> System.err.println(error) }
    val scope = CoroutineScope(SupervisorJob() + Dispatchers.IO + complain)
    runBlocking {
        if (environment["ROKET_ROLE"] == "client") {
            val socket = aSocket(selector()).tcp().connect(host, port)
            if (job in ends) {
                handler(socket)
                exitProcess(0)
            }
            val running = scope.launch { handler(socket) }
            if (takesInput) running.join()
        } else {
            val server: ServerSocket = aSocket(selector()).tcp().bind(host, port)
            if (job in ends) {
                handler(server.accept())
                exitProcess(0)
            }
            val first = CompletableDeferred<Unit>()
            scope.launch {
                while (true) {
                    val socket = server.accept()
                    launch { handler(socket) }.invokeOnCompletion { first.complete(Unit) }
                }
            }
            if (takesInput) first.await()
        }
    }
    stay()
}
