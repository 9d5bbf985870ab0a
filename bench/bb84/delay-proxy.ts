/** A long way between two stations: passes a TCP connection on and holds back what comes from its target.
 *  Arguments: port of the target, milliseconds added to a way there and back. Prints `LISTENING <port>`. */
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'

const [targetPort, delayMs] = process.argv.slice(2).map(Number) as [number, number]

/** A timer of Node is up to a millisecond late, which is much of such a way: the last bit is waited for in short naps. */
const TIMER_LATE_MS = 2
const NAP_MS = 0.1
/** What the way through this process takes by itself, there and back; the round trip that the bench prints shows what comes of it. */
const OWN_MS = 0.4
const bed = new Int32Array(new SharedArrayBuffer(4))

const server = createServer({ noDelay: true }, (near) => {
  const far = connect({ port: targetPort, host: '127.0.0.1', noDelay: true })
  near.pipe(far)
  const held: { readonly chunk: Buffer; readonly dueMs: number }[] = []
  const release = (): void => {
    while (held.length > 0 && held[0]!.dueMs <= performance.now()) near.write(held.shift()!.chunk)
    if (held.length === 0) return
    if (held[0]!.dueMs - performance.now() > TIMER_LATE_MS) return void setTimeout(release, 1)
    Atomics.wait(bed, 0, 0, NAP_MS)
    setImmediate(release)
  }
  far.on('data', (chunk) => {
    held.push({ chunk, dueMs: performance.now() + delayMs - OWN_MS })
    if (held.length === 1) release()
  })
  const end = (other: Socket) => () => other.destroy()
  near.on('close', end(far)).on('error', end(far))
  far.on('close', end(near)).on('error', end(near))
})
server.listen(0, '127.0.0.1', () => console.log(`LISTENING ${(server.address() as AddressInfo).port}`))
