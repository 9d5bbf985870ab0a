/** Alice of reconciliation.ts as a process of its own. Arguments: frames of a block, blocks at once, error rate of the keys. Prints
 *  `LISTENING <port>`; asked `cpu` on standard input she answers with the milliseconds of CPU time she has used. */
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { systemRandom } from '../../src/kernel/random.ts'
import { SessionEnded, type BlockChannel } from '../../src/link/drivers/bb84/classical-session.ts'
import { answerCascade } from '../../src/link/drivers/bb84/distil-at-alice.ts'
import { copyOf, keysOf, openSession, PINGS, talkAbout } from './reconciliation.ts'

const [frames, blocksAtOnce, qber] = process.argv.slice(2).map(Number) as [number, number, number]
const { alice: key } = keysOf(frames, qber)

const answerPings = async (channel: BlockChannel): Promise<void> => {
  await channel.send('block-start', Buffer.alloc(0))
  for (let ping = 0; ping < PINGS; ping += 1) {
    await channel.receive('block-accept')
    await channel.send('verified', Buffer.alloc(64))
  }
  channel.close()
}

const serve = async (socket: Socket): Promise<void> => {
  const session = await openSession(socket)
  await answerPings(session.open(1))
  let block = 1
  const answerBlocks = async (): Promise<void> => {
    for (;;) {
      const conversation = talkAbout(session.open(++block), 'alice')
      await conversation.send('block-start', Buffer.alloc(0))
      await answerCascade(conversation, copyOf(key), qber, systemRandom)
      await conversation.receive('verified')
      conversation.close()
    }
  }
  await Promise.all(Array.from({ length: blocksAtOnce }, answerBlocks))
}

const server = createServer({ noDelay: true }, (socket) => {
  serve(socket).catch((error: unknown) => {
    if (!(error instanceof SessionEnded)) throw error
  })
})
createInterface({ input: process.stdin }).on('line', () => {
  const { user, system } = process.cpuUsage()
  console.log((user + system) / 1000)
})
server.listen(0, '127.0.0.1', () => console.log(`LISTENING ${(server.address() as AddressInfo).port}`))
