/** Bob's process never holds what Alice did not send him: its memory is searched for it before she reveals anything, and when the block
 *  is done. */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { duplexPair } from 'node:stream'
import { afterEach, describe, expect, it } from '@jest/globals'
import { createPulseSource, pulseAt } from '../../src/bb84/pulse-source.ts'
import { decodeClicks } from '../../src/bb84/sifting.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import type { LinkId } from '../../src/kernel/identifiers.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import { runAlice } from '../../src/link/drivers/bb84/alice-station.ts'
import { createChannelServer } from '../../src/quantum-channel/channel-server.ts'
import { createMemoryAuthenticationLedger } from '../link/memory-authentication-ledger.ts'
import { streamsOf } from './audited-run.ts'
import type { BobOrders } from './bob-program.ts'
import { messageTap } from './message-tap.ts'
import { findIn, memoryOf, type Needle } from './process-memory.ts'
import { SLOTS_PER_BURST, tinyProfile } from './tampered-session.ts'

const LINK = 'a-b' as LinkId
const profile = tinyProfile()
/** A packed pulse has more than two bits of chance: so many bytes of them, or of even bits, are nowhere by accident. */
const WINDOW_BYTES = 16
/** A byte for a pulse. */
const UNPACKED_WINDOW_BYTES = 64

const packed = (bits: readonly number[]): Buffer => {
  const bytes = Buffer.alloc((bits.length + 7) >> 3)
  bits.forEach((bit, index) => (bytes[index >> 3] = (bytes[index >> 3] as number) | (bit << (index & 7))))
  return bytes
}

interface Heard {
  /** Bob's announcements, burst by burst. */
  readonly clicks: Buffer[]
  reveal: Buffer
}

const needle = (name: string, bytes: Buffer): Needle => ({ name, bytes, windowBytes: WINDOW_BYTES })

/** What Alice knows when Bob has announced his clicks and she has not spoken. */
const secretsOf = ({ clicks, reveal }: Heard): Needle[] => {
  const source = createPulseSource(profile)
  const needles = [needle('what she is about to reveal', reveal)]
  const states: number[] = []
  const keyBits: number[] = []
  clicks.forEach((announced, burst) => {
    const pulses = source.burst(SLOTS_PER_BURST, streamsOf('alice')(`pulses:${burst}`))
    needles.push(needle('a seed', streamsOf('alice')(`pulses:${burst}`).fill(Buffer.alloc(32))))
    needles.push(needle('pulses', Buffer.from(pulses)))
    const { slots, bases } = decodeClicks(announced, SLOTS_PER_BURST)
    slots.forEach((slot, click) => {
      const state = pulseAt(pulses, slot)
      states.push(state)
      const bobBasis = ((bases[click >> 3] as number) >> (click & 7)) & 1
      if (bobBasis === 0 && (state & 2) === 0) keyBits.push(state & 1)
    })
  })
  needles.push(needle('the sifted key', packed(keyBits)))
  needles.push(needle('the values of all pulses that clicked', packed(states.map((state) => state & 1))))
  needles.push({ name: 'pulses that clicked', bytes: Buffer.from(states), windowBytes: UNPACKED_WINDOW_BYTES })
  return needles
}

const onLinux = process.platform === 'linux' ? describe : describe.skip

onLinux("the memory of Bob's process", () => {
  const cleanUps: (() => unknown)[] = []
  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp()
  })

  /** A link with Bob in another process. @param beforeReveal runs while Bob stands still and waits for what Alice reveals. */
  const start = async (
    beforeReveal: (bob: number) => void,
  ): Promise<{ readonly bob: ChildProcess; readonly heard: Heard; readonly preShared: Buffer }> => {
    const channel = createChannelServer({
      host: '127.0.0.1',
      portA: 0,
      portB: 0,
      linkId: LINK,
      profile,
      streams: streamsOf('channel'),
    })
    await channel.start()
    cleanUps.push(() => channel.stop())
    const listener = createServer().listen(0, '127.0.0.1')
    await once(listener, 'listening')
    cleanUps.push(() => listener.close())

    const bob = fork(new URL('bob-program.ts', import.meta.url), { execArgv: ['--disable-warning=ExperimentalWarning'] })
    cleanUps.push(() => bob.kill('SIGKILL'))
    const preShared = systemRandom.fill(Buffer.alloc(4096))
    const orders: BobOrders = {
      profile,
      slotsPerBurst: SLOTS_PER_BURST,
      linkId: LINK,
      photonsPort: channel.ports.bob,
      classicalPort: (listener.address() as AddressInfo).port,
      preSharedHex: preShared.toString('hex'),
    }
    bob.send(orders)
    const socket = await new Promise<Socket>((resolve) => listener.once('connection', resolve))
    socket.on('error', () => socket.destroy())
    cleanUps.push(() => socket.destroy())

    const heard: Heard = { clicks: [], reveal: Buffer.alloc(0) }
    const tap = messageTap((_from, { type, block, payload, bytes }) => {
      if (type === 'clicks' && block === 1) heard.clicks.push(Buffer.from(payload))
      if (type === 'reveal' && block === 1) {
        heard.reveal = Buffer.from(payload)
        bob.kill('SIGSTOP')
        beforeReveal(bob.pid as number)
        bob.kill('SIGCONT')
      }
      return [bytes]
    })
    const [aliceEnd, near] = duplexPair()
    near.on('data', (chunk: Buffer) => socket.write(tap('alice', chunk) ?? ''))
    near.on('end', () => socket.end())
    socket.on('data', (chunk: Buffer) => near.write(tap('bob', chunk) ?? ''))
    socket.on('close', () => near.end())

    const stopping = new AbortController()
    const ledger = createMemoryAuthenticationLedger()
    await ledger.add('pre-shared', SecretBytes.take(Buffer.from(preShared)))
    let wanted = 0
    const finished = Promise.withResolvers<void>()
    const alice = runAlice(
      {
        linkId: LINK,
        profile,
        slotsPerBurst: SLOTS_PER_BURST,
        connectPhotons: async () => {
          const fibre = connect({ port: channel.ports.alice, host: '127.0.0.1', noDelay: true })
          await once(fibre, 'connect')
          return fibre
        },
        connectClassical: () => Promise.resolve(aliceEnd),
        ledger,
        streams: streamsOf('alice'),
        wanted: async (signal) => {
          wanted += 1
          if (wanted > 1) await once(signal, 'abort')
        },
        deliver: () => finished.resolve(),
        report: () => {},
        clock: systemClock,
      },
      stopping.signal,
    )
    alice.catch(finished.reject)
    cleanUps.push(async () => {
      stopping.abort()
      await alice
    })
    await finished.promise
    return { bob, heard, preShared }
  }

  it('holds no seed, no pulse, no basis and no bit of the sifted key of Alice before she reveals, and no seed and no pulses after', async () => {
    let atReveal: Buffer[] = []
    const { bob, heard, preShared } = await start((pid) => (atReveal = memoryOf(pid)))
    const secrets = secretsOf(heard)
    const known = needle('the pre-shared secret', preShared)
    expect(heard.clicks.length).toBeGreaterThan(5)
    expect(atReveal.reduce((sum, { length }) => sum + length, 0)).toBeGreaterThan(10_000_000)
    // What Bob does hold is found.
    expect(findIn(atReveal, [...secrets, known])).toEqual(['the pre-shared secret'])

    const late = secrets.filter(({ name }) => name === 'a seed' || name === 'pulses')
    expect(findIn(memoryOf(bob.pid as number), [...late, known])).toEqual(['the pre-shared secret'])

    // And so would pulses be.
    const [, , pulses] = secrets
    bob.send({ hex: pulses?.bytes.subarray(1003, 1050).toString('hex') })
    await once(bob, 'message')
    expect(findIn(memoryOf(bob.pid as number), [...late, known])).toEqual(['pulses', 'the pre-shared secret'])
  })
})
