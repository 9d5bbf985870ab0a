/** A process of its own that starts a server, says so on standard output, and goes on until it is killed. */
import { startEmbeddedPostgres } from '../../src/embedded-postgres/embedded-postgres.ts'

const server = await startEmbeddedPostgres({ directory: process.argv[2]!, durable: false })
process.stdout.write(`${server.url('postgres')}\n`)
process.stdin.resume()
