// What ktor 3 calls otherwise than ktor 1 did.
import io.ktor.network.selector.SelectorManager
import io.ktor.utils.io.ByteWriteChannel
import kotlinx.coroutines.Dispatchers

fun selector(): SelectorManager = SelectorManager(Dispatchers.IO)

suspend fun ByteWriteChannel.finish() {
    flushAndClose()
}
