/** `npm run failover`: the database of kme-a is on a PostgreSQL server with a synchronous standby, that of kme-b on a server of its own.
 *  Under mixed traffic in both directions the primary is killed or hangs, the standby takes over, and a new standby is made of it; so
 *  several times. What the primary sends reaches the standby late, so that the standby has not seen the newest claims (ADR 0010), and at
 *  times it applies late what it has. Then everything answered 200 is fetched, every stored unit is tried, and the books of both ends
 *  are held against each other.
 *  Exit status: 0 all is well, 128 the network did not heal in 30 s, 129 a promise was broken, 1 the run itself failed. */
import { randomInt } from 'node:crypto'
import { Command } from 'commander'
import { systemClock } from '../../src/kernel/clock.ts'
import { imbalances } from '../network/ledger.ts'
import { eventually, keysOf, quieten, startNetwork, type Network, type SaeClient } from '../network/network.ts'
import { startOwnPostgres } from '../setup/own-postgres.ts'
import { createAccount, type Account, type Batch } from '../soak/account.ts'
import { createPlan, type Plan } from '../soak/plan.ts'
import { startTraffic } from '../soak/traffic.ts'
import { startStandbyPair, type StandbyPair } from './standby-pair.ts'

const EXIT_NOT_HEALED = 128
const EXIT_VIOLATION = 129
/** From the moment the standby takes writes. */
const RECOVERY_MS = 10_000
const HEAL_DEADLINE_MS = 30_000
const BETWEEN_MS = { least: 2000, most: 5000 }
const STANDBY_DELAY_MS = { least: 0, most: 200 }
const REPLAY_PAUSED_MS = 1000
/** Until it is noticed that the primary is gone. */
const NOTICED_AFTER_MS = { least: 0, most: 1500 }
const SHOWN_VIOLATIONS = 20

const say = (text: string): void => void process.stdout.write(`${text}\n`)

interface Figures {
  readonly recoveriesMs: number[]
  readonly forgotten: Set<string>
}

const draws = (client: SaeClient, slave: string): Promise<boolean> =>
  client.get(`/api/v1/keys/${slave}/enc_keys`).then(
    ({ status }) => status === 200,
    () => false,
  )

/** IDs of assignments that kme-b holds durably and of whose claim the new primary of kme-a knows nothing. */
const findForgotten = async (network: Network, pair: StandbyPair): Promise<string[]> => {
  const held = async (): Promise<string[]> => {
    const rows = await network.query<{ aid: string }>(
      'kme-b',
      `SELECT aid FROM assignment WHERE role = 'holder' AND state <> 'VOIDED'`,
    )
    return rows.map(({ aid }) => aid)
  }
  const before = await held()
  const rows = await pair.query<{ aid: string }>('kme_a', 'SELECT aid FROM reservation UNION SELECT aid FROM assignment')
  const known = new Set(rows.map(({ aid }) => aid))
  // What was settled meanwhile is void at kme-b too.
  const still = new Set(await held())
  return before.filter((aid) => !known.has(aid) && still.has(aid))
}

const failOver = async (network: Network, pair: StandbyPair, account: Account, plan: Plan, figures: Figures): Promise<void> => {
  const delayMs = plan.whole(STANDBY_DELAY_MS.least, STANDBY_DELAY_MS.most)
  const how = plan.pick(['kill', 'freeze'] as const)
  const late = plan.chance(0.5)
  pair.delayStandby(delayMs)
  await systemClock.sleep(plan.whole(BETWEEN_MS.least, BETWEEN_MS.most))
  if (late) {
    await pair.pauseReplay()
    await systemClock.sleep(REPLAY_PAUSED_MS)
  }
  const what = `primary: ${how}, ${delayMs} ms ahead of its standby${late ? ', which applies late' : ''}`
  account.fault(what)
  const lostMs = systemClock.monotonicMs()
  await pair.losePrimary(how)
  await systemClock.sleep(plan.whole(NOTICED_AFTER_MS.least, NOTICED_AFTER_MS.most))
  pair.pointAtStandby()
  await pair.promote()
  const promotedMs = systemClock.monotonicMs()
  const knownBefore = figures.forgotten.size
  for (const aid of await findForgotten(network, pair)) figures.forgotten.add(aid)
  const alice = await network.sae('alice')
  const bob = await network.sae('bob')
  await eventually('keys flow in both directions', async () => (await draws(alice, 'bob')) && draws(bob, 'alice'))
  const recoveredMs = systemClock.monotonicMs()
  figures.recoveriesMs.push(recoveredMs - promotedMs)
  alice.close()
  bob.close()
  await pair.removeLost()
  const seconds = (fromMs: number): string => `${((recoveredMs - fromMs) / 1000).toFixed(2)} s`
  say(
    `${what}; keys flow ${seconds(lostMs)} after the loss, ${seconds(promotedMs)} after the standby took over; ${figures.forgotten.size - knownBefore} claims forgotten`,
  )
  await pair.attachStandby()
}

/** Draws all that is left, so that every unit kme-a takes for free is tried at kme-b. */
const drain = async (network: Network, account: Account): Promise<void> => {
  for (const [master, slave] of [
    ['alice', 'bob'],
    ['bob', 'alice'],
  ] as const) {
    const from = await network.sae(master)
    const to = await network.sae(slave)
    for (let refusals = 0; refusals < 8;) {
      const status = await from.get(`/api/v1/keys/${slave}/status`)
      const number = Math.min(128, Math.max(1, status.json['stored_key_count'] as number))
      const batch: Batch = { master, slave, sizeBits: 256, history: [] }
      const answer = await from.post(`/api/v1/keys/${slave}/enc_keys`, { number })
      if (answer.status !== 200) {
        refusals += 1
        await systemClock.sleep(250)
        continue
      }
      const keys = account.issued(batch, keysOf(answer), number)
      const wanted = { key_IDs: keys.map(({ keyId }) => ({ key_ID: keyId })) }
      const fetched = await to.post(`/api/v1/keys/${master}/dec_keys`, wanted)
      if (fetched.status === 200) account.fetched(keys, keysOf(fetched))
      else account.violation(`a fetch answered ${fetched.status}`, keys)
    }
  }
}

const failover = async (options: { rounds: number; seed: number; asynchronous: boolean }): Promise<void> => {
  const startMs = systemClock.monotonicMs()
  const account = createAccount(() => `${((systemClock.monotonicMs() - startMs) / 1000).toFixed(3)} s`)
  const { violations } = account
  const plan = createPlan(options.seed)
  say(
    `seed ${options.seed}, ${options.rounds} rounds; again with: npm run failover -- --rounds ${options.rounds} --seed ${options.seed}`,
  )

  await using cleanUp = new AsyncDisposableStack()
  const pair = await startStandbyPair(!options.asynchronous)
  cleanUp.defer(() => pair.remove())
  const other = await startOwnPostgres()
  cleanUp.defer(() => other.remove())
  const network = cleanUp.use(
    await startNetwork({
      processes: true,
      rateBlocksPerS: 20,
      logLevel: 'warn',
      keys: { localStored: 1000, maxStored: 10_000_000 },
      createDatabase: (name) => (name === 'kme_a' ? pair : other).createDatabase(name),
    }),
  )
  await pair.attachStandby()
  let plans = 0
  const traffic = startTraffic(network, account, () => createPlan(options.seed + (plans += 1)))
  const figures: Figures = { recoveriesMs: [], forgotten: new Set() }
  let unhealed: string | undefined
  try {
    for (let round = 0; round < options.rounds; round += 1) await failOver(network, pair, account, plan, figures)
  } finally {
    await traffic.stop()
  }

  let faults: string[] = []
  const healStartMs = systemClock.monotonicMs()
  try {
    await eventually('everything answered 200 is fetched', async () => (await traffic.fetchRest(100)) === 0)
    await quieten(network)
    await drain(network, account)
    await eventually('the books of both ends balance', async () => (faults = await imbalances(network)).length === 0)
  } catch (error) {
    unhealed = (error as Error).message
    for (const what of faults) account.violation(`books: ${what}`)
  }
  if (systemClock.monotonicMs() - healStartMs > HEAL_DEADLINE_MS) unhealed ??= 'all is well, but late'
  const slowestMs = Math.max(...figures.recoveriesMs)
  if (slowestMs > RECOVERY_MS) unhealed ??= `keys flowed only ${(slowestMs / 1000).toFixed(1)} s after a standby had taken over`
  for (const name of ['kme-a', 'kme-b'] as const) if (network.hasEnded(name)) account.violation(`${name} has ended by itself`)
  if (account.figures.lostAfter503 > 0) account.violation(`${account.figures.lostAfter503} keys lost after a fetch answered 503`)

  const [burnt] = await network.query<{ n: number }>(
    'kme-a',
    `SELECT count(*)::int AS n FROM audit_record WHERE event = 'key.burnt' AND actor = 'system'`,
  )
  for (const text of violations.slice(0, SHOWN_VIOLATIONS)) say(`VIOLATION ${text}`)
  if (unhealed !== undefined) say(`NOT HEALED: ${unhealed}`)
  const totals = {
    ...account.figures,
    forgottenClaims: figures.forgotten.size,
    assignmentsBurnt: burnt!.n,
    violations: violations.length,
  }
  const words = Object.entries(totals).map(([name, count]) => `${name} ${count}`)
  say(`seed ${options.seed}: ${words.join(', ')}`)
  const tookS = figures.recoveriesMs.map((ms) => (ms / 1000).toFixed(2))
  say(`keys flowed again after ${tookS.join(', ')} s`)
  process.exitCode = violations.length > 0 ? EXIT_VIOLATION : unhealed !== undefined ? EXIT_NOT_HEALED : 0
}

const program = new Command('failover')
  .option('--rounds <number>', 'how often the primary is lost', Number, 5)
  .option('--seed <number>', 'of the plan; another one each time if left out', Number, randomInt(2 ** 32))
  .option('--asynchronous', 'the standby may lag: the run must end with 129', false)
  .parse()
await failover(program.opts())
