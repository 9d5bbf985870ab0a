/** What tests of failures ask and look at, at kme-a, where alice asks for keys to share with xavier, and at kme-x. */
import { eventually } from '../setup/eventually.ts'
import { fetchKeys, type Answer, type Exchange, type Fault, type Site } from './site.ts'

export const KEYS = '/kmapi/v1/ext_keys'
export const ACK = `${KEYS}/ack`
export const VOID = `${KEYS}/void`

export const watchSite = (site: Site) => {
  const enc = async (body: object = {}): Promise<Answer> => (await site.sae('alice')).post('/api/v1/keys/xavier/enc_keys', body)
  const newest = (path: string): Exchange | undefined => site.exchanges.findLast((exchange) => exchange.path === path)
  return {
    enc,
    newest,
    /** Fails requests to one path. */
    failing: (path: string, fault: Fault): void => site.failWith((exchange) => (exchange.path === path ? fault : undefined)),
    /** From now on: all keys of this request are at the neighbour, which has said no more than that it took them. */
    isTaken: (): Promise<boolean> => {
      const before = site.exchanges.length
      return eventually('202 was answered', () =>
        site.exchanges.slice(before).some(({ path, status }) => path === KEYS && status === 202),
      )
    },
    settled: (): Promise<boolean> =>
      eventually('both sides have said all and settled all', async () => {
        const counts = [
          await site.count('kme-a', 'reservation'),
          await site.count('kme-a', 'neighbour_message'),
          await site.count('kme-x', 'neighbour_message'),
        ]
        return counts.every((count) => count === 0)
      }),
    settledReservations: (): Promise<boolean> =>
      eventually('nothing is reserved', async () => (await site.count('kme-a', 'reservation')) === 0),
    fetchAtX: async (keyIds: readonly string[]): Promise<number> => {
      const keys = keyIds.map((key_ID) => ({ key_ID }))
      return (await fetchKeys(await site.sae('xavier'), 'alice', keys)).status
    },
    /** Units of the local pool that are spent. */
    spentUnits: async (): Promise<number> => {
      const sql = `SELECT coalesce(sum(bit_count(taken)), 0)::int AS units FROM key_block WHERE link_id = 'local'`
      return (await site.query<{ units: number }>('kme-a', sql))[0]!.units
    },
    statesAtA: (keyIds: readonly string[]): Promise<{ state: string; void_answer: string | null }[]> =>
      site.query('kme-a', `SELECT DISTINCT state, void_answer FROM sent_key WHERE key_id = ANY($1::uuid[])`, [keyIds]),
  }
}

/** The IDs of the keys in a request that sends some. */
export const idsIn = ({ body }: Pick<Exchange, 'body'>): string[] =>
  (JSON.parse(body) as { keys: { key_id: string }[] }).keys.map(({ key_id }) => key_id)

/** Acknowledges some keys of a request. */
export const ackOf = (exchange: Exchange, status: string, count = Infinity, more: object = {}): string => {
  const key_id_container = idsIn(exchange)
    .slice(0, count)
    .map((key_id) => ({ key_id, ...more }))
  return JSON.stringify([
    { key_id_container, ack_status: status, initiator_sae_id: 'alice', target_sae_ids: ['xavier'], ...more },
  ])
}
