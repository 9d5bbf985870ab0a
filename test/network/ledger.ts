/** Holds the books of both ends of a link against each other, unit by unit, once nothing moves any more. */
import { eventually, type KmeName, type Network } from './network.ts'

interface BlockRow {
  block_id: string
  state: string
  mine: string
  taken: string
  done: string
}

export interface LedgerLink {
  readonly id: string
  readonly ends: readonly [KmeName, KmeName]
}

const LINK_AB: LedgerLink = { id: 'a-b', ends: ['kme-a', 'kme-b'] }

const blocksOf = async (network: Network, name: KmeName, link: LedgerLink): Promise<Map<string, BlockRow>> => {
  const rows = await network.query<BlockRow>(
    name,
    `SELECT block_id, state, mine::text, taken::text, done::text FROM key_block WHERE link_id = $1 AND state <> 'INGESTED'`,
    [link.id],
  )
  return new Map(rows.map((row) => [row.block_id, row]))
}

/** Nothing of it was ever used: the other end never got it. */
const wasGivenUp = ({ state, taken }: BlockRow): boolean => state === 'DESTROYED' && !taken.includes('1')

/** Every disagreement between the two ends, in words; empty when the books balance. */
export const imbalances = async (network: Network, link = LINK_AB): Promise<string[]> => {
  const faults: string[] = []
  const [one, other] = link.ends
  const atA = await blocksOf(network, one, link)
  const atB = await blocksOf(network, other, link)
  for (const [blockId, a] of atA) {
    const b = atB.get(blockId)
    if (b === undefined) {
      if (!wasGivenUp(a)) faults.push(`block ${blockId} is at ${one} only`)
      continue
    }
    for (let unit = 0; unit < a.mine.length; unit += 1) {
      const issuers = Number(a.mine[unit]) + Number(b.mine[unit])
      if (issuers !== 1) faults.push(`unit ${unit} of ${blockId} has ${issuers} issuing KMEs`)
      if (a.taken[unit] !== b.taken[unit]) faults.push(`unit ${unit} of ${blockId} is taken at one end only`)
    }
    for (const row of [a, b]) {
      if (row.state === 'AVAILABLE' && !row.done.includes('0')) faults.push(`block ${blockId} is used up but not destroyed`)
    }
  }
  for (const [blockId, b] of atB) {
    if (!atA.has(blockId) && !wasGivenUp(b)) faults.push(`block ${blockId} is at ${other} only`)
  }
  for (const name of link.ends) {
    const [{ reserved }] = (await network.query<{ reserved: number }>(
      name,
      'SELECT count(*)::int AS reserved FROM reservation',
    )) as [{ reserved: number }]
    if (reserved > 0) faults.push(`${reserved} reservations are left at ${name}`)
    // A unit is promised to one assignment at the most.
    const doubles = await network.query<{ block: string; unit: number }>(
      name,
      `SELECT run ->> 'blockId' AS block, unit::int AS unit FROM assignment, jsonb_array_elements(units) run, jsonb_array_elements(run -> 'units') unit
       WHERE state <> 'VOIDED' GROUP BY 1, 2 HAVING count(*) > 1`,
    )
    for (const { block, unit } of doubles) faults.push(`unit ${unit} of ${block} is in two assignments at ${name}`)
  }
  return faults
}

/** Waits until the books balance; says what is wrong when they do not in time. */
export const expectBalanced = async (network: Network, link = LINK_AB): Promise<void> => {
  let faults: string[] = []
  await eventually('the books of both ends balance', async () => (faults = await imbalances(network, link)).length === 0).catch(
    () => {
      throw new Error(`the books do not balance:\n${faults.slice(0, 20).join('\n')}`)
    },
  )
}
