/** SAEs that draw and fetch keys without a pause, honestly and not: repeated, foreign, unknown, mixed and racing requests. What must
 *  never be answered 200 is told to the account when it is. */
import { randomUUID } from 'node:crypto'
import { systemClock } from '../../src/kernel/clock.ts'
import { keysOf, type Answer, type Network, type SaeClient } from '../network/network.ts'
import type { Account, Batch, IssuedKey } from './account.ts'
import type { Plan } from './plan.ts'

const PAIRS = [
  ['alice', 'bob'],
  ['alice', 'bert'],
  ['anna', 'bob'],
  ['bob', 'alice'],
  ['bob', 'anna'],
  ['bert', 'alice'],
  ['alice', 'anna'],
] as const
const SLAVES = ['bob', 'bert', 'alice', 'anna'] as const
const FETCHERS_PER_SLAVE = 2
const KEYS_MAX = 16
/** Masters wait while a slave has this many keys to fetch. */
const WAITING_MAX = 2000
// Long after every deadline of a KME. A request that is open then hangs.
const ANSWER_DEADLINE_MS = 60_000
// A client whose request failed, or who has nothing to do, goes on after this. No result is waited for with it.
const PAUSE_MS = 20
const UNREACHED = -1

/** An answer, or what happened instead of one: nobody listened, or the connection ended before an answer came. */
type Outcome = Answer | 'unreached' | 'none'

const statusOf = (outcome: Outcome): number => (outcome === 'none' ? 0 : outcome === 'unreached' ? UNREACHED : outcome.status)
/** Whether the KME decided about the request. */
const isAnswer = (status: number): boolean => status > 0 && status !== 503
const doubtOf = (statuses: readonly number[]): IssuedKey['unsure'] =>
  statuses.includes(0) ? 'no answer' : statuses.includes(503) ? '503' : undefined

export const startTraffic = (network: Network, account: Account, createPlan: () => Plan) => {
  const { figures } = account
  const waiting = new Map<string, IssuedKey[]>()
  const queueOf = (slave: string, master: string): IssuedKey[] => {
    const name = `${slave} ${master}`
    if (!waiting.has(name)) waiting.set(name, [])
    return waiting.get(name)!
  }
  const stopping = new AbortController()
  const { signal } = stopping
  const pause = (): Promise<void> => systemClock.sleep(PAUSE_MS, signal)

  const ask = async (send: () => Promise<Answer>): Promise<Outcome> => {
    figures.requests += 1
    const answered = new AbortController()
    const hung = systemClock.sleep(ANSWER_DEADLINE_MS, answered.signal).then(() => {
      if (!answered.signal.aborted) account.violation(`no answer in ${ANSWER_DEADLINE_MS / 1000} s`)
      return 'none' as const
    })
    try {
      const failed = (error: NodeJS.ErrnoException) => (error.code === 'ECONNREFUSED' ? 'unreached' : 'none')
      const outcome: Outcome = await Promise.race([send().catch(failed), hung])
      if (outcome === 'none') figures.unknownOutcomes += 1
      else if (outcome === 'unreached') figures.notReached += 1
      else if (outcome.status === 503) figures.refused503 += 1
      return outcome
    } finally {
      answered.abort()
    }
  }
  const draw = async (master: string, slave: string, plan: Plan): Promise<void> => {
    const client = await network.sae(master)
    while (!signal.aborted) {
      const queue = queueOf(slave, master)
      if (queue.length > WAITING_MAX) {
        await pause()
        continue
      }
      const number = plan.whole(1, KEYS_MAX)
      const sizeBits = plan.chance(0.5) ? 256 : 8 * plan.whole(8, 512)
      const batch: Batch = { master, slave, sizeBits, history: [] }
      const path = `/api/v1/keys/${slave}/enc_keys`
      const outcome = await ask(() =>
        plan.chance(0.5)
          ? client.post(path, { number, size: sizeBits })
          : client.get(`${path}?number=${number}&size=${sizeBits}`),
      )
      const status = statusOf(outcome)
      if (typeof outcome === 'object' && status === 200) queue.push(...account.issued(batch, keysOf(outcome), number))
      else {
        if (isAnswer(status)) account.violation(`enc_keys of ${master} for ${slave} answered ${status}`)
        await pause()
      }
    }
  }

  const request = (client: SaeClient, master: string, keyIds: readonly string[]): Promise<Outcome> =>
    ask(() => client.post(`/api/v1/keys/${master}/dec_keys`, { key_IDs: keyIds.map((key_ID) => ({ key_ID })) }))

  /** Fetches keys nobody fetched before. @returns those still to be fetched. */
  const fetchKeys = async (client: SaeClient, master: string, keys: readonly IssuedKey[]): Promise<readonly IssuedKey[]> => {
    const outcome = await request(
      client,
      master,
      keys.map(({ keyId }) => keyId),
    )
    const status = statusOf(outcome)
    for (const batch of new Set(keys.map((one) => one.batch))) account.tell(batch, `fetch answered ${status}`)
    if (typeof outcome === 'object' && status === 200) {
      account.fetched(keys, keysOf(outcome))
      return []
    }
    if (!isAnswer(status)) {
      for (const one of keys) one.unsure ??= doubtOf([status])
      return keys
    }
    // Refused whole: what may be gone is asked for one by one, so that it does not take the rest with it.
    if (status === 400 && keys.some(({ unsure }) => unsure !== undefined)) {
      if (keys.length === 1) {
        if (keys[0]!.unsure === '503') figures.lostAfter503 += 1
        else figures.lostWithoutAnswer += 1
        return []
      }
      const left: IssuedKey[] = []
      for (const one of keys) left.push(...(await fetchKeys(client, master, [one])))
      return left
    }
    account.violation(`a first fetch by ${keys[0]!.batch.slave} answered ${status}`, keys)
    return []
  }

  const mustRefuse = (what: string, outcome: Outcome, keys: readonly IssuedKey[] = []): void => {
    const status = statusOf(outcome)
    if (status === 400 || status === 401) figures.refusedAsTheyShould += 1
    else if (isAnswer(status)) account.violation(`${what} answered ${status}`, keys)
  }

  const fetchLoop = async (slave: string, stranger: string, plan: Plan): Promise<void> => {
    const client = await network.sae(slave)
    const second = await network.sae(slave)
    const other = await network.sae(stranger)
    const masters = PAIRS.filter(([, to]) => to === slave).map(([from]) => from)
    while (!signal.aborted) {
      const master = plan.pick(masters)
      const queue = queueOf(slave, master)
      const take = (): IssuedKey[] => queue.splice(0, plan.whole(1, KEYS_MAX))
      const act = plan.weighted({ honest: 70, repeated: 6, foreign: 5, unknown: 2, mixed: 6, race: 6, status: 5 })
      if (act === 'status') {
        const status = statusOf(await ask(() => client.get(`/api/v1/keys/${master}/status`)))
        if (isAnswer(status) && status !== 200) account.violation(`status answered ${status}`)
        continue
      }
      if (act === 'unknown') {
        mustRefuse('an unknown key ID', await request(client, master, [randomUUID()]))
        continue
      }
      const delivered = account.recent.filter(({ batch }) => batch.slave === slave && batch.master === master)
      if (act === 'repeated') {
        if (delivered.length === 0) continue
        const again = plan.pick(delivered)
        mustRefuse('a second fetch', await request(client, master, [again.keyId]), [again])
        continue
      }
      const keys = take()
      if (keys.length === 0) {
        await pause()
        continue
      }
      const keyIds = keys.map(({ keyId }) => keyId)
      if (act === 'honest') queue.push(...(await fetchKeys(client, master, keys)))
      else if (act === 'foreign') {
        mustRefuse(`a fetch by ${stranger}`, await request(other, master, keyIds), keys)
        queue.push(...keys)
      } else if (act === 'mixed') {
        // Whatever comes of it, the good ones can be fetched afterwards.
        const bad = delivered.length > 0 ? plan.pick(delivered).keyId : randomUUID()
        mustRefuse('good and bad key IDs in one request', await request(client, master, [...keyIds, bad]), keys)
        queue.push(...keys)
      } else {
        const outcomes = await Promise.all([request(client, master, keyIds), request(second, master, keyIds)])
        const statuses = outcomes.map(statusOf)
        for (const batch of new Set(keys.map((one) => one.batch))) account.tell(batch, `race answered ${statuses.join(' and ')}`)
        const served = outcomes.filter((outcome) => typeof outcome === 'object').filter(({ status }) => status === 200)
        for (const answer of served) account.fetched(keys, keysOf(answer))
        if (served.length > 0) continue
        const doubt = doubtOf(statuses)
        const known = statuses.every(isAnswer) && !keys.some(({ unsure }) => unsure !== undefined)
        if (known) account.violation(`both of a race answered ${statuses.join()}`, keys)
        for (const one of keys) one.unsure ??= doubt
        queue.push(...keys)
      }
    }
  }

  const loops = [
    ...PAIRS.map(([master, slave]) => draw(master, slave, createPlan())),
    ...SLAVES.flatMap((slave, at) =>
      Array.from({ length: FETCHERS_PER_SLAVE }, (_, which) =>
        fetchLoop(slave, which === 0 ? SLAVES[(at + 1) % SLAVES.length]! : 'mallory', createPlan()),
      ),
    ),
  ]
  const all = Promise.all(loops)
  // Awaited by `stop`; until then a loop that failed must not end the program.
  all.catch(() => undefined)

  return {
    stop: async (): Promise<void> => {
      stopping.abort()
      await all
    },
    /** Fetches all that was answered 200 and not yet fetched. @returns how many keys are left; 0 when the network has healed. */
    fetchRest: async (keysPerRequest: number): Promise<number> => {
      let left = 0
      for (const [name, queue] of waiting) {
        const [slave, master] = name.split(' ') as [string, string]
        const client = await network.sae(slave)
        const keys = queue.splice(0)
        for (let from = 0; from < keys.length; from += keysPerRequest)
          queue.push(...(await fetchKeys(client, master, keys.slice(from, from + keysPerRequest))))
        client.close()
        left += queue.length
      }
      return left
    },
  }
}
