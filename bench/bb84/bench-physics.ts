/** What one thread does per second of CPU time: pulses chosen, bases chosen, light measured, clicks announced and sifted, bits tested and
 *  hashed, words and answers on the classical channel. */
import { createServer, connect, type AddressInfo, type Socket } from 'node:net'
import { once } from 'node:events'
import { createHealthTest } from '../../src/bb84/health-tests.ts'
import { profileNamed } from '../../src/bb84/profile.ts'
import { createBasisChoice, createPulseSource, pulseAt } from '../../src/bb84/pulse-source.ts'
import { bitAt, decodeClicks, encodeClicks, gatherClicks, packedBytes, siftAtAlice } from '../../src/bb84/sifting.ts'
import { HASH_KEY_BYTES, verificationTag } from '../../src/bb84/universal-hash.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { createQuantumChannel } from '../../src/quantum-channel/channel.ts'
import { openSession } from './reconciliation.ts'

export interface PhysicsFigure {
  readonly what: string
  readonly unit: string
  readonly perCpuSecond: number
}

const SLOTS = 2 ** 18
const LINKS = [
  ['lab-2014', 25],
  ['metro', 5],
] as const
const TEST_BITS = 1_000_000

/** @param seconds of CPU time per figure. */
const perCpuSecond = (count: number, seconds: number, work: () => void): number => {
  for (let run = 0; run < 10; run += 1) work()
  const began = process.cpuUsage()
  for (let runs = 1; ; runs += 1) {
    work()
    const { user, system } = process.cpuUsage(began)
    const used = (user + system) / 1e6
    if (used >= seconds) return (runs * count) / used
  }
}

export const measurePhysics = (seconds = 0.4): readonly PhysicsFigure[] => {
  const figures: PhysicsFigure[] = []
  const measure = (what: string, unit: string, count: number, work: () => void): void => {
    figures.push({ what, unit, perCpuSecond: perCpuSecond(count, seconds, work) })
  }
  for (const [name, distanceKm] of LINKS) {
    const profile = profileNamed(name, { distanceKm })
    const source = createPulseSource(profile)
    const choice = createBasisChoice(profile)
    const channel = createQuantumChannel({ profile })
    const pulses = source.burst(SLOTS, systemRandom)
    const bases = choice.burst(SLOTS, systemRandom)
    const link = `${name}, ${distanceKm} km`
    const { slots } = channel.transmit(pulses, bases, SLOTS, systemRandom)
    if (name === LINKS[0][0]) measure("Alice's pulses", 'pulses', SLOTS, () => source.burst(SLOTS, systemRandom))
    measure(`Bob's bases, ${link}`, 'pulses', SLOTS, () => choice.burst(SLOTS, systemRandom))
    measure(`fibre and detectors, ${link}`, 'pulses', SLOTS, () => channel.transmit(pulses, bases, SLOTS, systemRandom))
    if (name !== 'metro') continue
    const announced = encodeClicks({ slots, bases: new Uint8Array(packedBytes(slots.length)) })
    measure('clicks announced', 'clicks', slots.length, () => encodeClicks({ slots, bases }))
    measure('clicks heard and sifted', 'clicks', slots.length, () => {
      const heard = decodeClicks(announced, SLOTS)
      const gathered = gatherClicks(heard.slots.length)
      for (let click = 0; click < heard.slots.length; click += 1) {
        gathered.add(pulseAt(pulses, heard.slots[click]!), bitAt(heard.bases, click))
      }
      siftAtAlice(gathered.take(), profile.intensities.length)
    })
  }
  const bits = systemRandom.fill(new Uint8Array(TEST_BITS / 8))
  const hashKey = systemRandom.fill(new Uint8Array(HASH_KEY_BYTES))
  const health = createHealthTest()
  measure('health tests', 'bits', TEST_BITS, () => health.examine(bits, TEST_BITS))
  measure('tags (Poly1305)', 'bits', TEST_BITS, () => verificationTag(hashKey, bits))
  return figures
}

/** Words and answers of 64 bytes between two sessions over TCP in this process, per second as time passes. */
export const measureRoundTrips = async (count = 5_000): Promise<number> => {
  const server = createServer({ noDelay: true })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const accepted = once(server, 'connection') as Promise<[Socket]>
  const near = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', noDelay: true })
  const [[far]] = await Promise.all([accepted, once(near, 'connect')])
  const [alice, bob] = await Promise.all([openSession(near), openSession(far)])
  try {
    const asking = alice.open(1)
    await asking.send('block-start', Buffer.alloc(0))
    const answering = await bob.opened()
    await answering.receive('block-start')
    const began = process.hrtime.bigint()
    const answer = async (): Promise<void> => {
      for (let word = 0; word < count; word += 1) {
        await answering.receive('asks')
        await answering.send('parities', Buffer.alloc(64))
      }
    }
    const ask = async (): Promise<void> => {
      for (let word = 0; word < count; word += 1) {
        await asking.send('asks', Buffer.alloc(64))
        await asking.receive('parities')
      }
    }
    await Promise.all([answer(), ask()])
    return count / (Number(process.hrtime.bigint() - began) / 1e9)
  } finally {
    alice.end('measured')
    bob.end('measured')
    server.close()
  }
}
