/** Metrics for Prometheus. Gauges are read from the doors when scraped, so they cost nothing in between and no database call.
 *  Holds: labels name listeners, methods, statuses, KMEs and links; never a key ID, an SAE or anything a caller sent. */
import { collectDefaultMetrics, Counter, Gauge, Registry, type Aggregator } from 'prom-client'
import { alarmSeverities, type AlarmDirectory } from '../alarms/alarms.ts'
import type { PoolReport, PoolState, PoolWatch } from '../key-pool/key-pool.ts'
import type { LinkDirectory } from '../link/link.ts'
import type { PeerDirectory } from '../peer/peer.ts'
import type { TopologyCounts, TopologyDirectory } from '../topology/topology.ts'
import type { OwnMetrics } from './admin.ts'

export interface MetricsParts {
  readonly version: string
  readonly pools: PoolWatch
  readonly links: LinkDirectory
  readonly peers: PeerDirectory
  readonly alarms: Pick<AlarmDirectory, 'active'>
  readonly topology: TopologyDirectory
}

export interface AnsweredRequest {
  /** `sae`, `peer` or `admin`. */
  readonly listener: string
  readonly method: string
  readonly status: number
}

export interface Metrics extends OwnMetrics {
  observeRequest(request: AnsweredRequest): void
  addKeysIssued(count: number): void
  addKeysDelivered(count: number): void
  addKeysBurnt(count: number): void
  addKeysExpired(count: number): void
  /** Of those issued or delivered. */
  addFallbackKeys(event: 'issued' | 'delivered', count: number): void
  /** @param kind which quota was used up. */
  countQuotaRefused(kind: string): void
  addAlarmNoticesGivenUp(count: number): void
  readonly countTopologyMessage: TopologyCounts['message']
  readonly countTopologyStatement: TopologyCounts['statement']
}

export const createMetrics = (parts: MetricsParts): Metrics => {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  registerVersion(registry, parts.version)
  registerPools(registry, parts.pools)
  registerLinks(registry, parts.links)
  registerPeers(registry, parts.peers)
  registerAlarms(registry, parts.alarms)
  registerTopology(registry, parts.topology)

  const registers = [registry]
  const requests = new Counter({
    name: 'kme_requests_total',
    help: 'Requests answered',
    labelNames: ['listener', 'method', 'status'] as const,
    registers,
  })
  const issued = new Counter({ name: 'kme_keys_issued_total', help: 'Keys issued to master SAEs', registers })
  const delivered = new Counter({ name: 'kme_keys_delivered_total', help: 'Keys delivered to slave SAEs', registers })
  const burnt = new Counter({ name: 'kme_keys_burnt_total', help: 'Keys given up because their fate is in doubt', registers })
  const expired = new Counter({ name: 'kme_keys_expired_total', help: 'Keys no slave SAE asked for in time', registers })
  const fallback = new Counter({
    name: 'kme_fallback_keys_total',
    help: 'Keys that came from the fallback source and not from QKD, among those issued and those delivered',
    labelNames: ['event'] as const,
    registers,
  })
  const quotaRefused = new Counter({
    name: 'kme_quota_refused_total',
    help: 'Requests refused because a quota of their SAE or pair was used up',
    labelNames: ['kind'] as const,
    registers,
  })
  const givenUp = new Counter({
    name: 'kme_alarm_notices_given_up_total',
    help: 'Notices of alarms that a webhook did not accept for a day',
    registers,
  })
  const topologyMessages = new Counter({
    name: 'kme_topology_messages_total',
    help: 'Requests between this KME and its peers about the network',
    labelNames: ['direction', 'kind'] as const,
    registers,
  })
  const topologyStatements = new Counter({
    name: 'kme_topology_statements_total',
    help: 'Statements about the network that peers sent, by what became of them',
    labelNames: ['outcome'] as const,
    registers,
  })

  return {
    contentType: registry.contentType,
    text: () => registry.metrics(),
    values: () => registry.getMetricsAsJSON(),
    observeRequest: ({ listener, method, status }) => {
      // Anything else is refused, and a caller could invent endless names.
      requests.inc({ listener, method: method === 'GET' || method === 'POST' ? method : 'other', status })
    },
    addKeysIssued: (count) => issued.inc(count),
    addKeysDelivered: (count) => delivered.inc(count),
    addKeysBurnt: (count) => burnt.inc(count),
    addKeysExpired: (count) => expired.inc(count),
    addFallbackKeys: (event, count) => fallback.inc({ event }, count),
    countQuotaRefused: (kind) => quotaRefused.inc({ kind }),
    addAlarmNoticesGivenUp: (count) => givenUp.inc(count),
    countTopologyMessage: (direction, kind) => topologyMessages.inc({ direction, kind }),
    countTopologyStatement: (outcome) => topologyStatements.inc({ outcome }),
  }
}

const registerVersion = (registry: Registry, version: string): void => {
  const info = new Gauge({
    name: 'kme_info',
    help: 'Version of this KME',
    labelNames: ['version'] as const,
    registers: [registry],
    aggregator: 'first',
  })
  info.set({ version }, 1)
}

type GaugeValue<Label extends string> = readonly [Record<Label, string>, number]

/** A gauge with one value per source, read anew at each scrape; sources that are gone disappear.
 *  @param aggregator what becomes of the values of several processes of this KME; most mean the same in each of them. */
const registerGauge = <Label extends string>(
  registry: Registry,
  name: string,
  help: string,
  labelNames: readonly Label[],
  read: () => Iterable<GaugeValue<Label>>,
  aggregator: Aggregator = 'first',
): void => {
  new Gauge<Label>({
    name,
    help,
    labelNames,
    registers: [registry],
    aggregator,
    collect() {
      this.reset()
      for (const [labels, value] of read()) this.set(labels, value)
    },
  })
}

const POOL_STATES: readonly PoolState[] = ['healthy', 'low', 'critical', 'exhausted']

const registerPools = (registry: Registry, pools: PoolWatch): void => {
  registerGauge(
    registry,
    'kme_pool_keys',
    'Keys of default size in a pool, by the KME that may issue them',
    ['peer', 'issuer'],
    () =>
      pools.reports().flatMap(({ level: { peerKmeId, mine, theirs } }): [{ peer: string; issuer: string }, number][] => [
        [{ peer: peerKmeId, issuer: 'mine' }, mine],
        [{ peer: peerKmeId, issuer: 'theirs' }, theirs],
      ]),
  )
  registerGauge(registry, 'kme_pool_state', '1 for the state a pool is in, 0 for the others', ['peer', 'state'], () =>
    pools
      .reports()
      .flatMap(({ level, health }) =>
        POOL_STATES.map((state): [{ peer: string; state: string }, number] => [
          { peer: level.peerKmeId, state },
          state === health.state ? 1 : 0,
        ]),
      ),
  )
  const register = (name: string, help: string, read: (report: PoolReport) => number | undefined): void => {
    registerGauge(registry, name, help, ['peer'], () =>
      pools.reports().flatMap((report): [{ peer: string }, number][] => {
        const value = read(report)
        return value === undefined ? [] : [[{ peer: report.level.peerKmeId }, value]]
      }),
    )
  }
  register('kme_pool_reserved_keys', 'Keys this KME may issue that are kept for some SAEs', ({ level }) => level.reserved)
  register('kme_pool_low_watermark_keys', 'Below it every source of keys is asked', ({ marks }) => marks.lowWatermark)
  register('kme_pool_refill_keys_per_second', 'Keys that come in', ({ health }) => health.refillKeysPerS)
  register('kme_pool_consumption_keys_per_second', 'Keys that leave', ({ health }) => health.consumptionKeysPerS)
  register('kme_pool_time_to_empty_seconds', 'How long the pool lasts, while it empties', ({ health }) => health.timeToEmptyS)
}

const registerLinks = (registry: Registry, links: LinkDirectory): void => {
  const labels = ['link', 'peer'] as const
  const register = (
    name: string,
    help: string,
    read: (status: ReturnType<LinkDirectory['statuses']>[number]) => number | undefined,
  ): void => {
    registerGauge(registry, name, help, labels, () =>
      links.statuses().flatMap((status): [{ link: string; peer: string }, number][] => {
        const value = read(status)
        return value === undefined ? [] : [[{ link: status.linkId, peer: status.peerKmeId }, value]]
      }),
    )
  }
  register('kme_link_up', '1 when the link is up', (status) => (status.state === 'up' ? 1 : 0))
  register('kme_link_qber', 'Quantum bit error rate of the newest block, 0 to 1', (status) => status.qber)
  register('kme_link_key_rate_bps', 'Agreed key bits per second over the last minute', (status) => status.keyRateBps)
  register('kme_link_blocks_agreed', 'Blocks both ends agreed on', (status) => status.blocksAgreed)
  register('kme_link_blocks_rejected', 'Blocks refused', (status) => status.blocksRejected)
  register(
    'kme_link_expected_key_rate_bps',
    'Key bits per second that the model of the link gives when nobody listens',
    (status) => status.distillation?.expectedKeyRateBps,
  )
  register(
    'kme_link_authentication_key_bits',
    'Key left to authenticate the stations of the link to each other',
    (status) => status.distillation?.authentication.remainingBits,
  )
  register('kme_link_newest_block_age_seconds', 'Age of the newest agreed block', (status) =>
    status.newestBlockAgeMs === undefined ? undefined : status.newestBlockAgeMs / 1000,
  )
}

const registerPeers = (registry: Registry, peers: PeerDirectory): void => {
  // Each process calls the peers for itself: the worst counts.
  registerGauge(
    registry,
    'kme_peer_available',
    '1 when calls to the peer KME are tried',
    ['peer'],
    () => peers.statuses().map((status): [{ peer: string }, number] => [{ peer: status.kmeId }, status.available ? 1 : 0]),
    'min',
  )
  registerGauge(
    registry,
    'kme_peer_failures_in_a_row',
    'Calls to the peer KME that failed since its last answer',
    ['peer'],
    () => peers.statuses().map((status): [{ peer: string }, number] => [{ peer: status.kmeId }, status.failuresInARow]),
    'max',
  )
}

const registerAlarms = (registry: Registry, alarms: Pick<AlarmDirectory, 'active'>): void => {
  registerGauge(registry, 'kme_alarms_active', 'Alarms that are raised', ['severity'], () => {
    const active = alarms.active()
    return alarmSeverities.map((severity): [{ severity: string }, number] => [
      { severity },
      active.filter((alarm) => alarm.severity === severity).length,
    ])
  })
}

const LINK_STATES = ['up', 'down', 'one-sided'] as const

const registerTopology = (registry: Registry, topology: TopologyDirectory): void => {
  registerGauge(registry, 'kme_topology_kmes', 'KMEs of the network, by whether there is a way to them', ['reachable'], () => {
    const kmes = topology.kmes()
    return (['yes', 'no'] as const).map((reachable): [{ reachable: string }, number] => [
      { reachable },
      kmes.filter(({ route }) => (route !== undefined) === (reachable === 'yes')).length,
    ])
  })
  registerGauge(registry, 'kme_topology_links', 'Links of the network, by state', ['state'], () => {
    const links = topology.links()
    return LINK_STATES.map((state): [{ state: string }, number] => [
      { state },
      links.filter((link) => link.state === state).length,
    ])
  })
}
