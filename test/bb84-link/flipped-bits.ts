/** One random bit of one random message changes on its way; again and again. */
import { seededRandom } from '../bb84/seeded-random.ts'
import type { MessageType } from '../../src/link/drivers/bb84/classical-wire.ts'
import {
  FAST,
  brokenPromises,
  deliveredByBoth,
  flipBit,
  runTampered,
  watchedLedgers,
  type TamperedSession,
} from './tampered-session.ts'
import type { Role } from './simulated-link.ts'

/** What is said in a session of two blocks, and about how often. */
export const SAID: readonly (readonly [Role, MessageType, number])[] = [
  ['alice', 'hello', 1],
  ['alice', 'keepalive', 2],
  ['alice', 'block-start', 2],
  ['alice', 'reveal', 2],
  ['alice', 'frames', 2],
  ['alice', 'parities', 200],
  ['alice', 'frame-tags', 2],
  ['alice', 'verify', 2],
  ['alice', 'amplify', 2],
  ['alice', 'tag', 2],
  ['alice', 'abort', 2],
  ['bob', 'hello', 1],
  ['bob', 'keepalive', 2],
  ['bob', 'block-accept', 2],
  ['bob', 'clicks', 24],
  ['bob', 'tag', 4],
  ['bob', 'counts', 2],
  ['bob', 'asks', 200],
  ['bob', 'frame-result', 2],
  ['bob', 'verified', 2],
  ['bob', 'abort', 2],
]
const SESSIONS_PER_LEDGER = 10
/** KEEPALIVE must come while a session lasts. */
const HASTY = 300

export interface FlipTally {
  flips: number
  readonly flipsByMessage: Record<string, number>
  /** Sessions in which both ends delivered a block all the same, none of whose messages was changed. */
  unharmedBlocks: number
  oneSidedBlocks: number
  readonly faults: string[]
}

/** Runs sessions until `flips` bits were flipped, in `lanes` of sessions at a time. */
export const flipBits = async (seed: string, flips: number, lanes = 8): Promise<FlipTally> => {
  const tally: FlipTally = { flips: 0, flipsByMessage: {}, unharmedBlocks: 0, oneSidedBlocks: 0, faults: [] }
  let trial = 0
  const lane = async (): Promise<void> => {
    while (tally.flips < flips && tally.faults.length === 0) {
      const ledgers = await watchedLedgers()
      const sessions: TamperedSession[] = []
      for (let turn = 0; turn < SESSIONS_PER_LEDGER && tally.flips < flips; turn += 1) {
        trial += 1
        const dice = seededRandom(`${seed} ${trial}`).fill(Buffer.alloc(12))
        const [from, type, count] = SAID[trial % SAID.length] as (typeof SAID)[number]
        let bit = 0
        const session = await runTampered(
          ledgers,
          {
            from,
            type,
            nth: dice.readUInt32BE(0) % count,
            change: (message) => [flipBit(message, (bit = dice.readUIntBE(4, 6) % (message.bytes.length * 8)))],
          },
          {
            ...(type === 'abort' && { eve: { attack: 'intercept', fraction: 0.25 } }),
            clockFactor: type === 'keepalive' ? HASTY : FAST,
          },
        )
        sessions.push(session)
        const where = `trial ${trial}: bit ${bit} of ${from} ${type}`
        const { met, names, outcome } = session
        const both = deliveredByBoth(outcome)
        tally.oneSidedBlocks += outcome.delivered.alice.length + outcome.delivered.bob.length - 2 * both.length
        if (met === undefined) continue
        tally.flips += 1
        tally.flipsByMessage[`${from} ${type}`] = (tally.flipsByMessage[`${from} ${type}`] ?? 0) + 1
        tally.unharmedBlocks += both.length
        // A KEEPALIVE carries nothing of any block. What a HELLO says is part of every block.
        const harmed = type === 'hello' ? both : both.filter((name) => name === names.get(met.block))
        if (harmed.length > 0 && type !== 'keepalive') tally.faults.push(`${where}: both ends delivered the block`)
        for (const promise of brokenPromises(
          sessions.map((each) => each.outcome),
          ledgers,
        )) {
          tally.faults.push(`${where}: ${promise}`)
        }
      }
    }
  }
  await Promise.all(Array.from({ length: lanes }, lane))
  return tally
}
