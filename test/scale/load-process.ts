/** One load process: two SAEs that draw keys for each other in batches of every size, fetch them in batches of other sizes, and hold
 *  what both ends got against each other. One fetch in fifty is sent twice at the same moment: one of the two must be refused. */
import { Pool } from 'undici'
import { systemClock } from '../../src/kernel/clock.ts'
import { createPlan, type Plan } from '../soak/plan.ts'
import type { SentKey } from '../network/network.ts'
import type { Account, FromLoad, LoadOrder } from './load.ts'
import { createColumn, printOfKey, printOfKeyId } from './tally.ts'

const DRAWERS = 8
const FETCHERS = 8
const KEYS_MAX = 128
/** Masters wait while their slave has this many keys to fetch. */
const WAITING_MAX = 20_000
const RACE_PROBABILITY = 0.02
const PROGRESS_INTERVAL_MS = 1000
const ANSWER_DEADLINE_MS = 60_000
/** After a refusal, or when there is nothing to fetch yet. */
const PAUSE_MS = 20
const SHOWN_VIOLATIONS = 20

interface Waiting {
  readonly keyId: string
  readonly print: bigint
  /** A fetch of it ended without a decision. */
  unsure: boolean
}

/** Undefined: no answer. */
type Outcome = { readonly status: number; readonly keys: readonly SentKey[] } | undefined

const tell = (message: FromLoad): void => void process.send!(message)

const run = async (order: LoadOrder): Promise<void> => {
  const figures = { issued: 0, fetched: 0, refused: 0, unanswered: 0 }
  const violations: string[] = []
  const refusals = new Map<string, number>()
  const keyIds = createColumn()
  const keys = createColumn()
  const encMs: number[] = []
  const decMs: number[] = []
  const violation = (what: string): void => {
    if (violations.length < SHOWN_VIOLATIONS) violations.push(what)
  }

  const poolOf = ({ port, certificatePem, privateKeyPem }: Account): Pool =>
    new Pool(`https://localhost:${port}`, {
      connections: DRAWERS + FETCHERS + 2,
      headersTimeout: ANSWER_DEADLINE_MS,
      connect: { ca: order.caPem, cert: certificatePem, key: privateKeyPem, servername: 'localhost', host: '127.0.0.1' },
    })
  const ask = async (pool: Pool, path: string, content: unknown, latencies: number[]): Promise<Outcome> => {
    const startMs = systemClock.monotonicMs()
    try {
      const headers = { 'content-type': 'application/json' }
      const { statusCode, body } = await pool.request({ method: 'POST', path, headers, body: JSON.stringify(content) })
      const answer = (await body.json()) as { keys?: SentKey[]; message?: string }
      latencies.push(systemClock.monotonicMs() - startMs)
      if (statusCode === 503) {
        figures.refused += 1
        const text = answer.message ?? ''
        refusals.set(text, (refusals.get(text) ?? 0) + 1)
      }
      return { status: statusCode, keys: answer.keys ?? [] }
    } catch {
      figures.unanswered += 1
      return undefined
    }
  }

  const direction = async (master: Account, slave: Account, plan: Plan): Promise<void> => {
    const name = `${master.saeId} to ${slave.saeId}`
    const masterPool = poolOf(master)
    const slavePool = poolOf(slave)
    const waiting: Waiting[] = []
    let left = order.keysPerDirection
    let drawing = DRAWERS

    const draw = async (): Promise<void> => {
      while (left > 0) {
        if (waiting.length > WAITING_MAX) {
          await systemClock.sleep(PAUSE_MS)
          continue
        }
        const number = Math.min(left, plan.whole(1, KEYS_MAX))
        left -= number
        const outcome = await ask(masterPool, `/api/v1/keys/${slave.saeId}/enc_keys`, { number, size: 256 }, encMs)
        if (outcome?.status !== 200) {
          if (outcome !== undefined && outcome.status !== 503) violation(`${name}: enc_keys answered ${outcome.status}`)
          left += number
          await systemClock.sleep(PAUSE_MS)
          continue
        }
        if (outcome.keys.length !== number) violation(`${name}: ${number} keys asked for, ${outcome.keys.length} issued`)
        for (const { key_ID, key } of outcome.keys) {
          const print = printOfKey(key)
          keyIds.add(printOfKeyId(key_ID))
          keys.add(print)
          waiting.push({ keyId: key_ID, print, unsure: false })
        }
        figures.issued += outcome.keys.length
      }
      drawing -= 1
    }

    const check = (wanted: readonly Waiting[], got: readonly SentKey[]): void => {
      if (got.length !== wanted.length) violation(`${name}: ${wanted.length} keys asked for, ${got.length} fetched`)
      for (const [at, { keyId, print }] of wanted.entries()) {
        if (got[at]?.key_ID !== keyId) violation(`${name}: another key than ${keyId} fetched`)
        else if (printOfKey(got[at].key) !== print) violation(`${name}: key ${keyId} differs between the two ends`)
      }
      figures.fetched += wanted.length
    }
    const fetchKeys = async (wanted: readonly Waiting[], twice: boolean): Promise<void> => {
      const content = { key_IDs: wanted.map(({ keyId }) => ({ key_ID: keyId })) }
      const one = (): Promise<Outcome> => ask(slavePool, `/api/v1/keys/${master.saeId}/dec_keys`, content, decMs)
      const outcomes = await Promise.all(twice ? [one(), one()] : [one()])
      for (const outcome of outcomes) {
        if (outcome !== undefined && ![200, 400, 503].includes(outcome.status))
          violation(`${name}: dec_keys answered ${outcome.status}`)
      }
      const served = outcomes.filter((outcome) => outcome?.status === 200)
      if (served.length > 1) violation(`${name}: ${wanted.length} keys fetched twice`)
      if (served.length > 0) return check(wanted, served[0]!.keys)
      if (outcomes.some((outcome) => outcome === undefined || outcome.status === 503)) {
        for (const key of wanted) key.unsure = true
        waiting.push(...wanted)
        return systemClock.sleep(PAUSE_MS)
      }
      // Refused whole. What an earlier fetch may have got without telling is asked for one by one.
      if (wanted.length > 1 && wanted.some(({ unsure }) => unsure)) for (const key of wanted) await fetchKeys([key], false)
      else violation(`${name}: ${wanted.length} keys lost, among them ${wanted[0]!.keyId}`)
    }
    const fetchAll = async (): Promise<void> => {
      while (drawing > 0 || waiting.length > 0) {
        const wanted = waiting.splice(0, plan.whole(1, KEYS_MAX))
        if (wanted.length === 0) await systemClock.sleep(PAUSE_MS)
        else await fetchKeys(wanted, plan.chance(RACE_PROBABILITY))
      }
    }
    await Promise.all([...Array.from({ length: DRAWERS }, draw), ...Array.from({ length: FETCHERS }, fetchAll)])
    await Promise.all([masterPool.destroy(), slavePool.destroy()])
  }

  const ending = new AbortController()
  const reports = (async () => {
    while (!ending.signal.aborted) {
      tell({ said: 'progress', figures: { ...figures } })
      await systemClock.sleep(PROGRESS_INTERVAL_MS, ending.signal)
    }
  })()
  const [first, second] = order.saes
  await Promise.all([
    direction(first, second, createPlan(order.seed)),
    direction(second, first, createPlan(order.seed + 1)),
  ]).finally(() => ending.abort())
  await reports
  const { user, system } = process.cpuUsage()
  tell({
    said: 'done',
    result: {
      ...figures,
      violations,
      refusals,
      keyIds: keyIds.values(),
      keys: keys.values(),
      encMs: Float32Array.from(encMs),
      decMs: Float32Array.from(decMs),
      cpuMs: (user + system) / 1000,
    },
  })
}

process.once('message', (order) => {
  run(order as LoadOrder).catch((error: unknown) => tell({ said: 'failed', reason: (error as Error).message }))
})
// Whoever asked is gone.
process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'))
