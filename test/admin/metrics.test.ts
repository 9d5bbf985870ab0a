import { describe, expect, it } from '@jest/globals'
import type { AlarmRecord } from '../../src/alarms/alarms.ts'
import { aggregateMetrics } from '../../src/admin/aggregate-metrics.ts'
import { createMetrics } from '../../src/admin/metrics.ts'
import type { LinkStatus } from '../../src/link/link.ts'
import type { PoolLevel } from '../../src/key-pool/key-pool.ts'
import { emptyTopology, kmeId, levelOf, linkId, poolsWith, watchOf } from './admin-world.ts'

const link: LinkStatus = {
  linkId: linkId('a-b'),
  peerKmeId: kmeId('kme-b'),
  driver: 'tcp',
  state: 'up',
  reason: undefined,
  qber: 0.025,
  keyRateBps: 4096,
  blocksAgreed: 7,
  blocksRejected: 2,
  newestBlockAgeMs: 1500,
}

const alarm: AlarmRecord = {
  name: 'link.down:a-b',
  severity: 'critical',
  text: 'link a-b is down',
  subject: {},
  raisedAt: new Date(0),
  clearedAt: undefined,
}

const distilling: LinkStatus = {
  ...link,
  linkId: linkId('a-c'),
  peerKmeId: kmeId('kme-c'),
  driver: 'bb84',
  distillation: {
    expectedKeyRateBps: 40_000.5,
    authentication: { consumedBits: 384, replenishedBits: 32_768, remainingBits: 32_256, discardedBits: 128 },
    security: { blocks: 1, keyBits: 20_000, epsilonSum: 1e-10, tagBits: 384 },
  },
}

describe('metrics', () => {
  it('show pools, links and peers as they are when scraped, and forget what is gone', async () => {
    const levels: PoolLevel[] = [levelOf(kmeId('kme-b'), 5, 6)]
    const links = [link, distilling]
    const pools = await watchOf(poolsWith(levels))
    const metrics = createMetrics({
      version: '1.2.3',
      pools,
      links: { statuses: () => links },
      peers: {
        named: () => undefined,
        statuses: () => [
          { kmeId: kmeId('kme-b'), url: 'https://b', available: false, lastAnswerAgeMs: undefined, failuresInARow: 3 },
        ],
      },
      alarms: { active: () => [alarm] },
      topology: {
        kmes: () => [
          { kmeId: kmeId('kme-b'), sequence: 1, issuedAtMs: 0, validUntilMs: 1, route: [kmeId('kme-a'), kmeId('kme-b')] },
          { kmeId: kmeId('kme-x'), sequence: 1, issuedAtMs: 0, validUntilMs: 1, route: undefined },
        ],
        links: () => [
          { linkId: linkId('a-b'), one: kmeId('kme-a'), other: kmeId('kme-b'), state: 'up', availableKeys: 8, keyRateBps: 0 },
        ],
      },
    })
    const lines = (await metrics.text()).split('\n')
    expect(lines).toEqual(
      expect.arrayContaining([
        'kme_info{version="1.2.3"} 1',
        'kme_pool_keys{peer="kme-b",issuer="mine"} 5',
        'kme_pool_keys{peer="kme-b",issuer="theirs"} 6',
        'kme_pool_state{peer="kme-b",state="healthy"} 0',
        'kme_pool_state{peer="kme-b",state="critical"} 1',
        'kme_pool_reserved_keys{peer="kme-b"} 0',
        'kme_pool_low_watermark_keys{peer="kme-b"} 100',
        'kme_pool_refill_keys_per_second{peer="kme-b"} 0',
        'kme_pool_consumption_keys_per_second{peer="kme-b"} 0',
        'kme_link_up{link="a-b",peer="kme-b"} 1',
        'kme_topology_kmes{reachable="yes"} 1',
        'kme_topology_kmes{reachable="no"} 1',
        'kme_topology_links{state="up"} 1',
        'kme_topology_links{state="one-sided"} 0',
        'kme_link_qber{link="a-b",peer="kme-b"} 0.025',
        'kme_link_key_rate_bps{link="a-b",peer="kme-b"} 4096',
        'kme_link_blocks_agreed{link="a-b",peer="kme-b"} 7',
        'kme_link_blocks_rejected{link="a-b",peer="kme-b"} 2',
        'kme_link_newest_block_age_seconds{link="a-b",peer="kme-b"} 1.5',
        'kme_link_expected_key_rate_bps{link="a-c",peer="kme-c"} 40000.5',
        'kme_link_authentication_key_bits{link="a-c",peer="kme-c"} 32256',
        'kme_peer_available{peer="kme-b"} 0',
        'kme_peer_failures_in_a_row{peer="kme-b"} 3',
        'kme_alarms_active{severity="critical"} 1',
        'kme_alarms_active{severity="warning"} 0',
      ]),
    )
    expect(lines.some((line) => line.startsWith('process_cpu_seconds_total'))).toBe(true)
    // A device that delivers key has neither.
    expect(lines.filter((line) => /^kme_link_(expected|authentication).*link="a-b"/.test(line))).toEqual([])

    levels[0] = levelOf(kmeId('kme-b'), 4, 6)
    links.splice(0, 2, { ...link, state: 'down', qber: undefined })
    await pools.read()
    const later = await metrics.text()
    expect(later).toContain('kme_pool_keys{peer="kme-b",issuer="mine"} 4')
    expect(later).toContain('kme_link_up{link="a-b",peer="kme-b"} 0')
    expect(later).not.toContain('kme_link_qber{')
    expect(later).not.toContain('kme_link_authentication_key_bits{')
  })

  it('count requests and keys, and keep invented methods out of the labels', async () => {
    const metrics = createMetrics({
      version: '1',
      pools: await watchOf(poolsWith([])),
      links: { statuses: () => [] },
      peers: { named: () => undefined, statuses: () => [] },
      alarms: { active: () => [] },
      topology: emptyTopology,
    })
    metrics.observeRequest({ listener: 'sae', method: 'GET', status: 200 })
    metrics.observeRequest({ listener: 'sae', method: 'GET', status: 200 })
    metrics.observeRequest({ listener: 'sae', method: 'FOO', status: 405 })
    metrics.observeRequest({ listener: 'sae', method: 'BAR', status: 405 })
    metrics.addKeysIssued(3)
    metrics.addKeysDelivered(2)
    metrics.addKeysBurnt(1)
    metrics.addKeysExpired(4)
    metrics.addAlarmNoticesGivenUp(5)
    const text = await metrics.text()
    expect(text).toContain('kme_requests_total{listener="sae",method="GET",status="200"} 2')
    expect(text).toContain('kme_requests_total{listener="sae",method="other",status="405"} 2')
    expect(text).toMatch(/^kme_keys_issued_total 3$/m)
    expect(text).toMatch(/^kme_keys_delivered_total 2$/m)
    expect(text).toMatch(/^kme_keys_burnt_total 1$/m)
    expect(text).toMatch(/^kme_keys_expired_total 4$/m)
    expect(text).toMatch(/^kme_alarm_notices_given_up_total 5$/m)
  })

  it('of several processes add up what each did, and take once what means the same in each', async () => {
    const pools = await watchOf(poolsWith([levelOf(kmeId('kme-b'), 5, 6)]))
    const start = (available: boolean, failuresInARow: number) =>
      createMetrics({
        version: '1',
        pools,
        links: { statuses: () => [link] },
        alarms: { active: () => [] },
        topology: emptyTopology,
        peers: {
          named: () => undefined,
          statuses: () => [{ kmeId: kmeId('kme-b'), url: 'https://b', available, lastAnswerAgeMs: undefined, failuresInARow }],
        },
      })
    const processes = [start(true, 0), start(false, 3)]
    processes[0]!.addKeysIssued(3)
    processes[1]!.addKeysIssued(4)
    // As between processes.
    const values = JSON.parse(JSON.stringify(await Promise.all(processes.map((metrics) => metrics.values())))) as object[][]
    const page = (await aggregateMetrics(values)).split('\n')
    expect(page).toEqual(
      expect.arrayContaining([
        'kme_keys_issued_total 7',
        'kme_info{version="1"} 1',
        'kme_pool_keys{peer="kme-b",issuer="mine"} 5',
        'kme_link_up{link="a-b",peer="kme-b"} 1',
        'kme_link_blocks_agreed{link="a-b",peer="kme-b"} 7',
        'kme_peer_available{peer="kme-b"} 0',
        'kme_peer_failures_in_a_row{peer="kme-b"} 3',
      ]),
    )
  })
})
