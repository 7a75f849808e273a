// What ktor 1 calls otherwise than ktor 3 does.
import io.ktor.network.selector.ActorSelectorManager
import io.ktor.network.selector.SelectorManager
import io.ktor.utils.io.ByteWriteChannel
import io.ktor.utils.io.close
import kotlinx.coroutines.Dispatchers

@OptIn(io.ktor.util.InternalAPI::class)
fun selector(): SelectorManager = ActorSelectorManager(Dispatchers.IO)

suspend fun ByteWriteChannel.finish() {
    close()
}
