/** A long way between two stations: passes a TCP connection on and holds back what comes from its target.
 *  Arguments: port of the target, milliseconds added to a way there and back. Prints `LISTENING <port>`. */
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'

const [targetPort, delayMs] = process.argv.slice(2).map(Number) as [number, number]

const server = createServer({ noDelay: true }, (near) => {
  const far = connect({ port: targetPort, host: '127.0.0.1', noDelay: true })
  near.pipe(far)
  // Timers of the same length go off in the order in which they were set.
  far.on('data', (chunk) => void setTimeout(() => near.write(chunk), delayMs))
  const end = (other: Socket) => () => other.destroy()
  near.on('close', end(far)).on('error', end(far))
  far.on('close', end(near)).on('error', end(near))
})
server.listen(0, '127.0.0.1', () => console.log(`LISTENING ${(server.address() as AddressInfo).port}`))
