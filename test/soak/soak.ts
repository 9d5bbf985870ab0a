/** `npm run soak`: two KME processes on a durable PostgreSQL under mixed traffic, while a nemesis kills them with -9, cuts the
 *  connections of the QKD devices and stops or kills PostgreSQL. Then everything is healed, what was answered 200 is fetched, and the
 *  books of both ends are held against each other.
 *  Exit status: 0 all is well, 128 the network did not heal in 30 s, 129 a promise was broken, 1 the run itself failed. */
import { randomInt } from 'node:crypto'
import { cpSync, mkdtempSync, readFileSync, readdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command } from 'commander'
import { systemClock } from '../../src/kernel/clock.ts'
import { imbalances } from '../network/ledger.ts'
import { eventually, quieten, startNetwork, type KmeName, type Network } from '../network/network.ts'
import { startOwnPostgres, type OwnPostgres } from '../setup/own-postgres.ts'
import { createAccount, type Account } from './account.ts'
import { createPlan, type Plan } from './plan.ts'
import { startTraffic } from './traffic.ts'

const EXIT_CRASHED = 127
const EXIT_NOT_HEALED = 128
const EXIT_VIOLATION = 129
const HEAL_DEADLINE_MS = 30_000
const PATIENCE_MS = 180_000
const BETWEEN_FAULTS_MS = { least: 1000, most: 5000 }
const DOWN_MS = { least: 0, most: 3000 }
const LOOK_MS = 250
const REPORT_INTERVAL_MS = 30_000
const LAST_WORDS_LINES = 40
const SHOWN_VIOLATIONS = 20
const KMES: readonly KmeName[] = ['kme-a', 'kme-b']

const say = (text: string): void => void process.stdout.write(`${text}\n`)

/** Starts a KME, again and again as a supervisor would: PostgreSQL may be away. */
const keepStarting = async (network: Network, name: KmeName, signal: AbortSignal): Promise<void> => {
  while (!signal.aborted) {
    try {
      return await network.start(name)
    } catch {
      await systemClock.sleep(LOOK_MS, signal)
    }
  }
}

/** A KME ended and nobody had killed it. */
const noteDeath = (network: Network, account: Account, name: KmeName): void => {
  account.fault(`${name} has ended by itself`)
  account.figures.diedUnasked += 1
  const log = readFileSync(join(network.directory, `${name}.log`), 'utf8')
    .trimEnd()
    .split('\n')
  say(`${name} HAS ENDED BY ITSELF. Its last words:\n${log.slice(-LAST_WORDS_LINES).join('\n')}`)
}

const runNemesis = async (
  network: Network,
  database: OwnPostgres,
  account: Account,
  plan: Plan,
  signal: AbortSignal,
): Promise<void> => {
  const { figures, fault } = account
  const down = (): Promise<void> => systemClock.sleep(plan.whole(DOWN_MS.least, DOWN_MS.most), signal)
  const never = new AbortController().signal
  const kill = async (names: readonly KmeName[]): Promise<void> => {
    fault(`kill -9 ${names.join(' and ')}`)
    figures.kills += names.length
    await Promise.all(names.map((name) => network.kill(name)))
  }
  const restart = async (names: readonly KmeName[]): Promise<void> => {
    await Promise.all(names.map((name) => keepStarting(network, name, never)))
    fault(`${names.join(' and ')} started`)
  }
  while (!signal.aborted) {
    await systemClock.sleep(plan.whole(BETWEEN_FAULTS_MS.least, BETWEEN_FAULTS_MS.most), signal)
    if (signal.aborted) return
    for (const name of KMES) {
      if (!network.hasEnded(name)) continue
      noteDeath(network, account, name)
      await restart([name])
    }
    const act = plan.weighted({ killOne: 60, killBoth: 5, cutDevices: 20, stopPostgres: 8, killPostgres: 7 })
    const one = [plan.pick(KMES)]
    if (act === 'killOne' || act === 'killBoth') {
      const names = act === 'killOne' ? one : KMES
      await kill(names)
      await down()
      await restart(names)
    } else if (act === 'cutDevices') {
      const end = plan.pick(['a', 'b', undefined] as const)
      fault(`devices: connections of ${end ?? 'both ends'} cut`)
      figures.deviceCuts += 1
      network.devices.dropConnections(end)
    } else {
      const alsoKme = plan.chance(0.3)
      fault(act === 'stopPostgres' ? 'PostgreSQL stops' : 'PostgreSQL: kill -9')
      if (act === 'stopPostgres') {
        figures.postgresStops += 1
        await database.stop()
      } else {
        figures.postgresKills += 1
        await database.kill()
      }
      if (alsoKme) await kill(one)
      await down()
      await database.start()
      fault('PostgreSQL started')
      if (alsoKme) await restart(one)
    }
  }
}

const heal = async (network: Network, account: Account, patienceMs: () => number): Promise<void> => {
  for (const name of KMES) {
    if (!network.hasEnded(name)) continue
    noteDeath(network, account, name)
    await keepStarting(network, name, AbortSignal.timeout(patienceMs()))
  }
  const alice = await network.sae('alice')
  const bob = await network.sae('bob')
  const draws = async (): Promise<boolean> => {
    const answers = await Promise.all([alice.get('/api/v1/keys/bob/enc_keys'), bob.get('/api/v1/keys/alice/enc_keys')]).catch(
      () => [],
    )
    return answers.length > 0 && answers.every(({ status }) => status === 200)
  }
  await eventually('keys flow in both directions', draws, patienceMs())
}

const soak = async (options: { minutes: number; seed: number }): Promise<void> => {
  const startMs = systemClock.monotonicMs()
  const elapsedMs = (): number => systemClock.monotonicMs() - startMs
  const sinceStart = (): string => `${(elapsedMs() / 1000).toFixed(3)} s`
  const account = createAccount(sinceStart)
  const { figures, violations } = account
  const summary = (): string =>
    Object.entries({ ...figures, violations: violations.length })
      .map(([name, count]) => `${name} ${count}`)
      .join(', ')
  say(
    `seed ${options.seed}, ${options.minutes} minutes; again with: npm run soak -- --minutes ${options.minutes} --seed ${options.seed}`,
  )

  await using cleanUp = new AsyncDisposableStack()
  const database = await startOwnPostgres()
  cleanUp.defer(() => database.remove())
  const network = cleanUp.use(
    await startNetwork({
      processes: true,
      rateBlocksPerS: 30,
      logLevel: 'warn',
      // The devices must be able to deliver all they make.
      keys: { localStored: 2000, maxStored: 100_000_000 },
      createDatabase: database.createDatabase,
    }),
  )
  let plans = 0
  const traffic = startTraffic(network, account, () => createPlan(options.seed + (plans += 1)))

  const ending = new AbortController()
  const end = (): void => ending.abort()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, end)
  const reports = (async () => {
    while (!ending.signal.aborted) {
      await systemClock.sleep(REPORT_INTERVAL_MS, ending.signal)
      say(`${sinceStart()}: ${summary()}`)
    }
  })()
  const nemesis = runNemesis(network, database, account, createPlan(options.seed), ending.signal).finally(end)
  await systemClock.sleep(options.minutes * 60_000, ending.signal)
  end()
  await nemesis
  await traffic.stop()
  await reports

  say('healing')
  const healStartMs = elapsedMs()
  // Waits longer than it may take, so that slow and never can be told apart.
  const patienceMs = (): number => Math.max(0, PATIENCE_MS - (elapsedMs() - healStartMs))
  let unhealed: string | undefined
  let faults: string[] = []
  try {
    await heal(network, account, patienceMs)
    const fetchAll = async (): Promise<boolean> => (await traffic.fetchRest(100)) === 0
    await eventually('everything answered 200 is fetched', fetchAll, patienceMs())
    say(`${sinceStart()}: everything answered 200 is fetched`)
    const isQuiet = (): Promise<boolean> =>
      quieten(network).then(
        () => true,
        (error: unknown) => {
          say(`${sinceStart()}: ${(error as Error).message}`)
          return false
        },
      )
    await eventually('all blocks are agreed', isQuiet, patienceMs())
    say(`${sinceStart()}: all blocks are agreed`)
    const balances = async (): Promise<boolean> => (faults = await imbalances(network)).length === 0
    await eventually('the books of both ends balance', balances, patienceMs())
  } catch (error) {
    unhealed = (error as Error).message
    for (const what of faults) account.violation(`books: ${what}`)
  }
  const healMs = elapsedMs() - healStartMs
  if (healMs > HEAL_DEADLINE_MS) unhealed ??= 'all is well, but late'

  for (const text of violations.slice(0, SHOWN_VIOLATIONS)) say(`VIOLATION ${text}`)
  if (violations.length > SHOWN_VIOLATIONS) say(`... and ${violations.length - SHOWN_VIOLATIONS} more`)
  if (unhealed !== undefined) say(`NOT HEALED: ${unhealed}`)
  if (violations.length > 0 || unhealed !== undefined) {
    const kept = mkdtempSync(join(tmpdir(), 'openkme-soak-logs-'))
    for (const name of readdirSync(network.directory).filter((file) => file.endsWith('.log')))
      cpSync(join(network.directory, name), join(kept, name))
    say(`logs of the KMEs: ${kept}`)
  }
  say(`seed ${options.seed}: ${summary()}, healed in ${(healMs / 1000).toFixed(1)} s`)
  process.exitCode =
    violations.length > 0 ? EXIT_VIOLATION : unhealed !== undefined ? EXIT_NOT_HEALED : figures.diedUnasked > 0 ? EXIT_CRASHED : 0
}

const program = new Command('soak')
  .option('--minutes <number>', 'how long faults are made', Number, 5)
  .option('--seed <number>', 'of the plan; another one each time if left out', Number, randomInt(2 ** 32))
  .parse()
await soak(program.opts())
