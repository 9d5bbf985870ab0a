/** The composition root: the only file that builds concrete classes and joins slices. Read it from top to bottom to see
 *  what a KME is made of. */
import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { createMetrics } from './admin/metrics.ts'
import { createReadiness } from './admin/readiness.ts'
import { createTokenVerifier } from './admin/admin-token.ts'
import type { InstalledCertificate, MetricsPage, OwnMetrics } from './admin/admin.ts'
import { HEALTH_ROUTES, mountAdminApi } from './admin/routes.ts'
import { createAlarmStore } from './alarms/prisma-alarms.ts'
import { createAlarms } from './alarms/report-alarms.ts'
import { tellOfRefusals } from './alarms/tell-of-refusals.ts'
import { createNoticeSender } from './alarms/send-notices.ts'
import {
  clearLinkIncidents,
  raiseBlocksDiffer,
  raiseKeysBurnt,
  raiseNoKey,
  raiseNotAuthenticated,
  raisePeerMessageRefused,
  raisePeerNotApproved,
  raiseQber,
  watchConditions,
  watchDatabase,
  type RevocationListSight,
} from './alarms/watch-conditions.ts'
import { createAuditLog } from './audit/prisma-audit-log.ts'
import { poolMarksOf, relayPairPolicyOf, relayPolicyOf, type Config } from './config/config.ts'
import { readWebhookSecret } from './config/secrets.ts'
import { openKeyring } from './custody/prisma-keyring.ts'
import { openDatabase, untilItAnswers, type Database } from './database/database.ts'
import { applyMigrations } from './database/migrate.ts'
import { makeAdmitRequest } from './delivery/admit-request.ts'
import { makeAcceptAssignment } from './delivery/accept-assignment.ts'
import type { DeliveryLimits } from './delivery/delivery.ts'
import { makeGetKeyWithKeyIds } from './delivery/get-key-with-key-ids.ts'
import { makeGetKey } from './delivery/get-key.ts'
import { makeGetStatus } from './delivery/get-status.ts'
import { mountDeliveryPeerApi } from './delivery/peer-routes.ts'
import { createQuotas } from './delivery/quotas.ts'
import { createRateLimiter } from './delivery/rate-limiter.ts'
import { createSaeDirectory } from './delivery/prisma-sae-directory.ts'
import { mountDeliveryApi } from './delivery/routes.ts'
import { createSettlement } from './delivery/settle-reservations.ts'
import { createApiApp } from './http/api-app.ts'
import { requireKme, requireSae } from './http/caller.ts'
import { bearerChallenge } from './http/error-response.ts'
import { createEventStreams } from './http/event-streams.ts'
import { startListener, type Listener } from './http/listeners.ts'
import { bothOf, createRequestLog, type RequestLog } from './http/request-log.ts'
import { createInterworking } from './interworking/create-interworking.ts'
import { INTERWORKING_BODY_BYTES_MAX } from './interworking/routes.ts'
import { systemClock, type Clock } from './kernel/clock.ts'
import type { KmeId, LinkId } from './kernel/identifiers.ts'
import type { Logger } from './kernel/log.ts'
import { systemRandom, type Random } from './kernel/random.ts'
import type { SecretBytes } from './kernel/secret-bytes.ts'
import { accountOf, toSharePolicy } from './key-pool/accounts.ts'
import { comparePool, rebuildWhenInDoubt } from './key-pool/keep-pool.ts'
import { withoutShares } from './key-pool/share-out.ts'
import { createMemoryKeyPool } from './key-pool/memory-key-pool.ts'
import { createPoolCeilings } from './key-pool/prisma-pool-ceilings.ts'
import { createPoolHistory } from './key-pool/prisma-pool-history.ts'
import { recordPools } from './key-pool/record-pools.ts'
import { createRedisKeyPool } from './key-pool/redis-key-pool.ts'
import { createPoolWatch } from './key-pool/watch-pools.ts'
import { expireKeys, forgetDestroyedKeys } from './key-store/expire-keys.ts'
import { createKeyStore } from './key-store/prisma-key-store.ts'
import { createBlockAgreement } from './link/agree-block.ts'
import { createAuthenticationLedger } from './link/prisma-authentication-ledger.ts'
import { createDriver } from './link/driver-catalog.ts'
import { createLocalSource } from './link/fill-local-pool.ts'
import { createFallbackSource } from './link/fallback-source.ts'
import { createLending } from './link/lend-units.ts'
import { createLinkDirectory } from './link/link-directory.ts'
import { mountLinkPeerApi } from './link/peer-routes.ts'
import { createReplenisher } from './link/replenish-pools.ts'
import { createLinkSource, createLoanSource } from './link/replenish-sources.ts'
import { superviseLink } from './link/supervise-link.ts'
import { createMtlsPeer } from './peer/mtls-peer.ts'
import { createPeerDirectory } from './peer/peer-directory.ts'
import { createPeerTrust } from './peer/prisma-peer-trust.ts'
import { createQkdMixing } from './peer/qkd-mixing.ts'
import { createSessionLedger } from './peer/prisma-session-ledger.ts'
import { createRefusalLog } from './peer/refusal-log.ts'
import { mountHello, mountSessions } from './peer/routes.ts'
import { createSessionServer } from './peer/session-server.ts'
import { describeCertificate } from './pki/certificate-facts.ts'
import { openInstalledFiles, type InstalledFiles } from './pki/installed-files.ts'
import { PEER_BODY_BYTES_MAX } from './peer/wire.ts'
import { openProcesses } from './processes/prisma-processes.ts'
import { openRedis } from './redis/redis.ts'
import { createFlooding } from './topology/flood-topology.ts'
import { createLinkStateDatabase } from './topology/link-state-database.ts'
import { createOwnIdentity } from './topology/own-statement.ts'
import { mountTopologyPeerApi } from './topology/peer-routes.ts'
import { createTopologyStore } from './topology/prisma-topology-store.ts'
import { createSignerVerifier, type Trust } from './topology/signer.ts'
import { STATED_KEY_BITS } from './topology/topology.ts'
import { createTopologyView } from './topology/view-topology.ts'
import { createRelay } from './relay/create-relay.ts'
import { createFixedRoutes } from './relay/fixed-routes.ts'
import { makeMayBorrow } from './relay/may-borrow.ts'
import { mountRelayPeerApi } from './relay/peer-routes.ts'

export interface ComposeOptions {
  readonly config: Config
  readonly databaseUrl: string
  /** Without it this is the only process of the KME. */
  readonly redisUrl?: string | undefined
  /** Used once; the caller wipes it. */
  readonly passphrase: SecretBytes
  readonly version: string
  readonly log: Logger
  readonly clock?: Clock
  readonly random?: Random
  /** Makes the page of metrics out of those of this process and of others; without it the page is of this process. */
  readonly shareMetrics?: (own: OwnMetrics) => MetricsPage
  /** A part of the KME ended by itself: stop it. */
  readonly onFailure?: (error: unknown) => void
}

export interface Kme {
  readonly kmeId: KmeId
  /** The ports the listeners really have. */
  readonly ports: { readonly sae: number; readonly peer: number; readonly admin: number; readonly interworking?: number }
  /** Stops in reverse order of starting: listeners first, so that running requests can finish. */
  stop(): Promise<void>
}

const STOP_GRACE_MS = 5000
/** Each may hold a body of several MiB; a process of an OpenKME opens four. */
const NEIGHBOUR_CONNECTIONS_MAX = 64

export const compose = async (options: ComposeOptions): Promise<Kme> => {
  const { config, log, version } = options
  const clock = options.clock ?? systemClock
  const random = options.random ?? systemRandom
  const kmeId = config.kme.id
  const startedAtMs = clock.nowMs()
  const running = new AbortController()
  const loops: Promise<void>[] = []
  const cleanUp = new AsyncDisposableStack()

  try {
    // What is stored
    await applyMigrations(options.databaseUrl)
    const connect = async (connections: number): Promise<Database> => {
      const opened = cleanUp.use(
        openDatabase({
          url: options.databaseUrl,
          connections,
          connectDeadlineMs: config.database.connectDeadlineMs,
          onError: (error) => log.warn({ error }, 'a database connection was lost'),
          clock,
        }),
      )
      await untilItAnswers(opened, clock)
      return opened
    }
    const database = await connect(config.database.connections)
    // Before anything is claimed: what a process that nobody sees has claimed is settled by others.
    const processes = await openProcesses({
      database: await connect(1),
      processId: random.uuid(),
      host: hostname(),
      pid: process.pid,
      clock,
      log: log.slice('processes'),
    })
    const keyring = await openKeyring({ database, random, kmeId, passphrase: options.passphrase, ...config.custody })
    const auditLog = createAuditLog(database)
    const unitSizeBits = config.keys.sizeBits
    const store = createKeyStore({
      database,
      keyring,
      kmeId,
      unitSizeBits,
      retryWindowS: config.keys.retryWindowS,
      processId: processes.processId,
      clock,
      acceptsFallback: (peerKmeId) => config.pools.fallback.some(({ peer }) => peer === peerKmeId),
    })
    const saes = createSaeDirectory({ database, clock, log: log.slice('delivery') })
    await saes.seed(config.saes)
    const policy = toSharePolicy(config.sharing)
    const redis =
      options.redisUrl === undefined
        ? undefined
        : cleanUp.use(openRedis({ ...config.redis, url: options.redisUrl, clock, log: log.slice('redis') }))
    const pool =
      redis === undefined
        ? createMemoryKeyPool({ policy, clock })
        : createRedisKeyPool({
            redis,
            kmeId,
            databaseName: keyring.name,
            peers: config.peers.map(({ id }) => id),
            processId: processes.processId,
            policy,
            store,
            clock,
            random,
            log: log.slice('key-pool'),
            signal: running.signal,
          })
    if (redis === undefined) await pool.rebuild(store.availableUnits())

    // Alarms
    const alarmStore = createAlarmStore({
      database,
      kmeId,
      webhooks: config.alarms.webhooks.map(({ url }) => url),
      quietMs: config.alarms.quietS * 1000,
      nowMs: clock.nowMs,
      uuid: random.uuid,
    })
    const alarmParts = { store: alarmStore, clock, random, log: log.slice('alarms') }
    const alarms = createAlarms({ ...alarmParts, onGivenUp: (count) => metrics.addAlarmNoticesGivenUp(count) })
    const audit = tellOfRefusals(auditLog, alarms, clock)
    const notices = cleanUp.use(
      createNoticeSender({
        ...alarmParts,
        webhooks: config.alarms.webhooks.map(({ url, secretFile, caFile }) => ({
          url,
          secret: readWebhookSecret(secretFile),
          ...(caFile !== undefined && { caPem: readFileSync(caFile, 'utf8') }),
        })),
      }),
    )

    // How the pools are
    const linkedPeers = [...new Set(config.links.map(({ peer }) => peer))]
    const distantPeers = config.relay.enabled ? config.peers.map(({ id }) => id).filter((id) => !linkedPeers.includes(id)) : []
    const relayPolicyFor = (peerKmeId: KmeId) => relayPolicyOf(config, peerKmeId)
    const mayBorrow = makeMayBorrow({ distantPeers, policyOf: relayPolicyFor, maxHops: config.relay.maxHops })
    const lendFloorKeys = (peerKmeId: KmeId): number => (mayBorrow(peerKmeId) ? config.keys.lendFloor : Infinity)
    const marksOf = (peerKmeId: KmeId) => poolMarksOf(config, peerKmeId)
    const poolParts = { kmeId, marksOf, clock, random, log: log.slice('key-pool') }
    const poolWatch = createPoolWatch({
      ...poolParts,
      pool,
      expected: [...linkedPeers, ...distantPeers, ...(config.keys.localStored > 0 ? [kmeId] : [])],
      lendFloorKeys,
    })
    const poolHistory = createPoolHistory({ database, historyDays: config.pools.historyDays })
    const ceilings = createPoolCeilings({ ...poolParts, database })

    // Certificates
    const { saeApi, peerApi, adminApi } = config
    const pkiParts = { clock, log: log.slice('pki') }
    const saeFiles = openInstalledFiles({ ...saeApi.tls, ca: saeApi.tls.clientCa, crl: saeApi.tls.clientCrl }, pkiParts)
    const peerFiles = openInstalledFiles(peerApi.tls, pkiParts)
    const adminFiles = openInstalledFiles(adminApi.tls, pkiParts)

    // Other KMEs and links to them
    const peerTls = () => {
      const { caPem = '', ...files } = peerFiles.current()
      return { ...files, caPem }
    }
    const peerParts = { clock, log: log.slice('peer') }
    const peerTrust = createPeerTrust({ ...peerParts, database, peers: config.peers })
    await peerTrust.load()
    const isApproved = (peerKmeId: KmeId, fingerprint: string): boolean => {
      if (peerTrust.accepts(peerKmeId, fingerprint)) return true
      raisePeerNotApproved(alarms, { peerKmeId, fingerprint })
      return false
    }
    const { rekeyAfterS, rekeyAfterMessages } = peerApi.sessions
    const rekey = { afterMs: rekeyAfterS * 1000, afterMessages: rekeyAfterMessages, generation: peerTrust.generation }
    const mixing = createQkdMixing({
      store,
      policyOf: (peerKmeId) => config.peers.find(({ id }) => id === peerKmeId)?.mixQkdKey ?? 'off',
      linksTo: (peerKmeId) => config.links.filter(({ peer }) => peer === peerKmeId).map(({ id }) => id),
      log: peerParts.log,
    })
    const peers = cleanUp.use(
      createPeerDirectory(
        config.peers.map(({ id, url, deadlineMs, sessions }) =>
          createMtlsPeer({
            ...peerParts,
            kmeId,
            peerKmeId: id,
            url,
            deadlineMs,
            unitSizeBits,
            sessions: sessions === 'required',
            rekey,
            mixing,
            accepts: (fingerprint) => isApproved(id, fingerprint),
            onForged: (reason) => raisePeerMessageRefused(alarms, { peerKmeId: id, reason }),
            tls: peerTls(),
            random,
          }),
        ),
      ),
    )
    const sessionLedger = createSessionLedger({ ...peerParts, database, processId: processes.processId })
    const withoutSessions = new Set(config.peers.filter(({ sessions }) => sessions === 'off').map(({ id }) => id))
    const sessionServer = createSessionServer({
      ...peerParts,
      kmeId,
      ledger: sessionLedger,
      rekey,
      mixing,
      demandsSession: (peerKmeId) => !withoutSessions.has(peerKmeId),
      // What it refuses has an alarm of its own.
      audit: auditLog,
      onRefused: (peerKmeId, reason) => raisePeerMessageRefused(alarms, { peerKmeId, reason }),
      random,
    })
    const linkParts = { kmeId, store, pool, ceilings, peers, processes, unitSizeBits, clock, random, log: log.slice('link') }
    const ends = (link: Config['links'][number]) => ({ linkId: link.id, peerKmeId: link.peer })
    const ledgerOf = (linkId: LinkId) => createAuthenticationLedger({ database, keyring, kmeId, linkId })
    for (const link of config.links)
      if (link.driver === 'bb84') await ledgerOf(link.id).importPreShared(link.authenticationKeyFile)
    const links = createLinkDirectory(
      config.links.map((link) =>
        superviseLink({
          ...linkParts,
          linkId: link.id,
          peerKmeId: link.peer,
          driverName: link.driver,
          driver: createDriver(link, { clock, random, tls: peerTls, ledgerOf }),
          qberMax: link.qberMax,
          on: {
            blockOverQberMax: (qber) => raiseQber(alarms, { ...ends(link), qber, qberMax: link.qberMax }),
            blockWithoutKey: (reason, qber) => raiseNoKey(alarms, { ...ends(link), qber, reason }),
            notAuthenticated: (reason) => raiseNotAuthenticated(alarms, { ...ends(link), reason }),
            blocksDiffer: () => raiseBlocksDiffer(alarms, ends(link)),
            blockDistilled: () => clearLinkIncidents(alarms, link.id),
          },
        }),
      ),
      processes,
    )
    ceilings.onAsk(links.wake)
    const lending = createLending({ ...linkParts, lendFloorUnits: config.keys.lendFloor })
    const fallback = createFallbackSource({
      ...linkParts,
      allowed: config.pools.fallback,
      line: createMemoryKeyPool({ policy: withoutShares, clock }),
      alarms,
      onDifferent: (seen) => raiseBlocksDiffer(alarms, seen),
      audit,
    })

    // The network of all KMEs
    const isPeer = (kmeId: KmeId): boolean => config.peers.some(({ id }) => id === kmeId)
    const trust: Trust = {
      caPem: () => peerFiles.current().caPem ?? '',
      isRevoked: peerFiles.isRevoked,
      accepts: (kmeId, fingerprint256) => !isPeer(kmeId) || peerTrust.accepts(kmeId, fingerprint256),
    }
    const topologyStore = createTopologyStore(database)
    const linkStates = createLinkStateDatabase({
      store: topologyStore,
      verifier: createSignerVerifier({ trust, clock }),
      // What it refuses has an alarm of its own.
      audit: auditLog,
      alarms,
      clock,
    })
    await linkStates.load()
    const topology = createTopologyView({ kmeId, database: linkStates, clock })
    const keysWith = (peerKmeId: KmeId): number => {
      const { mine, theirs } = poolWatch.report(peerKmeId)?.level ?? { mine: 0, theirs: 0 }
      return Math.floor(((mine + theirs) * unitSizeBits) / STATED_KEY_BITS)
    }
    const flooding = createFlooding({
      kmeId,
      database: linkStates,
      store: topologyStore,
      partners: peers.partners(),
      links: () =>
        links.statuses().map(({ linkId, peerKmeId, state, keyRateBps }) => {
          const peerAnswers = peers.named(peerKmeId)?.available() === true
          return { linkId, peerKmeId, isUp: state === 'up', peerAnswers, availableKeys: keysWith(peerKmeId), keyRateBps }
        }),
      identity: createOwnIdentity(peerFiles.current),
      processes,
      counts: {
        message: (direction, kind) => metrics.countTopologyMessage(direction, kind),
        statement: (outcome) => metrics.countTopologyStatement(outcome),
      },
      clock,
      random,
      log: log.slice('topology'),
      signal: running.signal,
    })

    const relay = createRelay({
      ...linkParts,
      settings: config.relay,
      policyOf: relayPolicyFor,
      routes: createFixedRoutes(kmeId, config.relay.routes, topology),
      neighbours: linkedPeers,
      distantPeers,
      partner: peers.relayPartner,
      agreementWith: (ends) =>
        createBlockAgreement({
          ...linkParts,
          ...ends,
          onAgreed: () => undefined,
          onDiscarded: () => undefined,
        }),
      marksOf,
      audit,
      alarms,
      log: log.slice('relay'),
    })
    const localSource = createLocalSource(linkParts)
    const replenisher = createReplenisher({
      ...linkParts,
      watch: poolWatch,
      alarms,
      audit,
      sources: [
        ...config.links.map((link) => createLinkSource({ linkId: link.id, peerKmeId: link.peer, links })),
        ...[...linkedPeers, ...distantPeers]
          .filter(mayBorrow)
          .map((peerKmeId) => createLoanSource({ peerKmeId, lending, peers })),
        ...relay.sources,
        ...(config.keys.localStored > 0 ? [localSource] : []),
      ],
    })

    // Delivery
    const limits: DeliveryLimits = {
      keySizeBits: config.keys.sizeBits,
      minKeySizeBits: config.keys.minSizeBits,
      maxKeySizeBits: config.keys.maxSizeBits,
      maxKeysPerRequest: config.keys.maxPerRequest,
      maxStoredKeys: config.keys.maxStored,
      maxSaeIdCount: config.keys.maxSaeIdCount,
      heldForS: config.keys.heldForS,
      retryWindowS: config.keys.retryWindowS,
      lendFloorKeys,
    }
    const limiterParts = {
      redis,
      keyPrefix: `openkme:${kmeId}:${keyring.name}:quota`,
      processCount: () => processes.alive().length,
      clock,
    }
    // KMEs of other networks
    const interworkingFiles = config.interworking && openInstalledFiles(config.interworking.tls, pkiParts)
    const neighbourTls = (files: InstalledFiles) => ({ ...files.current(), caPem: files.current().caPem ?? '' })
    const interworking =
      config.interworking &&
      interworkingFiles &&
      cleanUp.use(
        createInterworking({
          kmeId,
          neighbours: config.interworking.neighbours.map(({ id, ...rest }) => ({ kmeId: id, ...rest })),
          ownUrl: config.interworking.url,
          tls: neighbourTls(interworkingFiles),
          isRevoked: interworkingFiles.isRevoked,
          directory: saes,
          store,
          database,
          audit,
          limits,
          limiterOf: (name, points) => createRateLimiter(name, { points, windowS: 1 }, limiterParts),
          clock,
          random,
          log: log.slice('interworking'),
        }),
      )
    const allKmes = { named: peers.named, statuses: () => [...peers.statuses(), ...(interworking?.statuses() ?? [])] }

    const metrics = createMetrics({ version, pools: poolWatch, links, peers: allKmes, alarms, topology })
    const deliveryParts = {
      kmeId,
      directory: saes,
      pool,
      store,
      peers,
      neighbours: interworking?.neighbours ?? { named: () => undefined },
      limits,
      audit,
      random,
      log: log.slice('delivery'),
      accountOf: accountOf(policy),
    }
    const settlement = createSettlement({
      ...deliveryParts,
      burnAfterS: config.keys.burnAfterS,
      clock,
      onBurnt: (unitCount) => {
        metrics.addKeysBurnt(unitCount)
        if (unitCount > 0) raiseKeysBurnt(alarms, unitCount)
      },
    })
    const getKey = makeGetKey({
      ...deliveryParts,
      clock,
      settlement,
      borrow: async (peerKmeId, unitCount) =>
        (mayBorrow(peerKmeId) && (await lending.borrow(peerKmeId, unitCount))) || (await relay.fetch(peerKmeId, unitCount)),
      takeFallback: fallback.take,
      takeRelayed: relay.take,
      relayPolicyOf: (masterSaeId, slaveSaeId) => relayPairPolicyOf(config, masterSaeId, slaveSaeId),
      retryAfterS: poolWatch.retryAfterS,
    })
    const getStatus = makeGetStatus({ ...deliveryParts, databaseAnswers: saes.isCurrent })
    const getKeyWithKeyIds = makeGetKeyWithKeyIds({ store })
    const acceptAssignment = makeAcceptAssignment({ ...deliveryParts, clock })
    const admitRequest = makeAdmitRequest({
      ...limiterParts,
      quotas: createQuotas(config.quotas),
      onRefused: metrics.countQuotaRefused,
      log: log.slice('delivery'),
    })

    // What others see. Three doors: a certificate or token for one is nothing to another.
    const countRequests = (listener: string): RequestLog => ({
      watch: (request, response) => {
        response.on('finish', () => {
          metrics.observeRequest({ listener, method: request.method ?? '', status: response.statusCode })
        })
      },
    })
    const watchRequests = (listener: string, quietRoutes: readonly string[] = []): RequestLog =>
      config.log.requests
        ? bothOf(createRequestLog({ listener, quietRoutes, log: log.slice('http'), clock }), countRequests(listener))
        : countRequests(listener)
    const refusalLog = createRefusalLog({ isPeer: peerTrust.accepts, audit, log: log.slice('peer') })
    // Peers call each other all the time: counted, not logged line by line.
    const watched = {
      sae: watchRequests('sae'),
      peer: bothOf(countRequests('peer'), refusalLog.ofCalls),
      admin: watchRequests('admin', HEALTH_ROUTES),
      interworking: watchRequests('interworking'),
    }
    const saeApp = createApiApp({
      errors: 'etsi',
      log: log.slice('http'),
      requestLog: watched.sae,
      mount: (app) => {
        app.use(
          requireSae({
            identify: saeApi.saeIdentity,
            isAdmitted: (saeId, facts) => {
              const sae = saes.find(saeId)
              return sae?.enabled === true && sae.kmeId === kmeId && !saeFiles.isRevoked(facts.serialNumber, facts.issuer)
            },
            clock,
          }),
        )
        mountDeliveryApi(app, {
          getStatus,
          getKey,
          getKeyWithKeyIds,
          admitRequest,
          limits,
          log: log.slice('delivery'),
          onDelivered: (method, keyCount, fallbackKeyCount) => {
            if (method === 'enc_keys') metrics.addKeysIssued(keyCount)
            else metrics.addKeysDelivered(keyCount)
            metrics.addFallbackKeys(method === 'enc_keys' ? 'issued' : 'delivered', fallbackKeyCount)
          },
        })
      },
    })
    const peerApp = createApiApp({
      errors: 'problem',
      log: log.slice('http'),
      requestLog: watched.peer,
      mount: (app) => {
        app.use(
          requireKme({
            isAdmitted: (id, facts) =>
              peers.named(id) !== undefined &&
              !peerFiles.isRevoked(facts.serialNumber, facts.issuer) &&
              isApproved(id, facts.fingerprint256),
            clock,
          }),
        )
        mountSessions(app, sessionServer)
        mountHello(app, { kmeId, unitSizeBits })
        mountDeliveryPeerApi(app, { acceptAssignment, store, pool, audit, log: log.slice('delivery') })
        mountLinkPeerApi(app, { links, others: [fallback, relay], fallback, lending, audit })
        mountTopologyPeerApi(app, { flooding })
        mountRelayPeerApi(app, { kmeId, acceptor: config.relay.enabled ? relay.acceptor : undefined })
      },
    })
    const interworkingApp =
      interworking &&
      createApiApp({
        errors: 'interworking',
        log: log.slice('http'),
        requestLog: watched.interworking,
        mount: interworking.mount,
      })
    const readiness = createReadiness({
      clock,
      probes: [{ name: 'database', check: () => database.answers() }],
    })
    const verifier = await createTokenVerifier({ publicKeyPem: readFileSync(adminApi.tokenKey, 'utf8'), kmeId, clock })
    const certificates = (): readonly InstalledCertificate[] => [
      ...describeOwn('saeApi.tls.certificate', saeFiles.current().certificatePem),
      ...describeOwn('peerApi.tls.certificate', peerFiles.current().certificatePem),
      ...describeOwn('adminApi.tls.certificate', adminFiles.current().certificatePem),
      ...describeAnchors('saeApi.tls.clientCa', saeFiles),
      ...describeAnchors('peerApi.tls.ca', peerFiles),
      ...(interworkingFiles === undefined
        ? []
        : [
            ...describeOwn('interworking.tls.certificate', interworkingFiles.current().certificatePem),
            ...describeAnchors('interworking.tls.ca', interworkingFiles),
          ]),
    ]
    const streams = createEventStreams({ clock, log: log.slice('http') })
    const adminApp = createApiApp({
      errors: 'problem',
      challenge: bearerChallenge,
      log: log.slice('http'),
      requestLog: watched.admin,
      mount: (app) =>
        mountAdminApi(app, {
          kmeId,
          version,
          startedAtMs,
          clock,
          readiness,
          verifier,
          audit,
          saes,
          links,
          peers: allKmes,
          trust: peerTrust,
          pools: poolWatch,
          poolHistory,
          replenisher,
          limits,
          metrics: options.shareMetrics?.(metrics) ?? metrics,
          processes,
          streams,
          certificates,
          alarms,
          topology,
        }),
    })

    // Before all that follows asks for connections to the database at the same moment.
    await audit.append({ event: 'kme.started', actor: 'system', outcome: 'done', subject: { kmeId, version } })

    // What runs by itself
    const loop = (work: Promise<void>): void => {
      loops.push(
        work.catch((error: unknown) => {
          // A loop mends what it can by itself; one that ends leaves a KME that only seems to work.
          log.error({ error }, 'a part of the KME failed; stopping')
          options.onFailure?.(error)
        }),
      )
    }
    const { signal } = running
    loop(processes.run(signal))
    if (redis !== undefined) loop(redis.watch(signal))
    loop(peers.watch(signal))
    loop(peerTrust.watch(signal))
    loop(links.run(signal))
    loop(fallback.run(signal))
    loop(flooding.run(signal))
    if (config.relay.enabled) loop(relay.run(signal))
    loop(settlement.run(signal))
    loop(poolWatch.run(signal))
    loop(ceilings.run(signal))
    loop(saes.watch(signal))
    loop(alarms.run(signal))
    loop(notices.run(signal))
    loop(watchDatabase({ alarms, databaseAnswers: database.answers, clock }, signal))
    if (interworking !== undefined) loop(interworking.run(signal))
    const hear = (table: string | undefined): void => {
      if (table === 'duty') processes.wake()
      else if (table === 'topology') flooding.notice()
      else if (table !== 'sent_key') saes.notice()
      // Without a name something may have been missed.
      if (table === undefined || table === 'sent_key') interworking?.notice()
      if (table === undefined || table.startsWith('peer_')) peerTrust.notice()
    }
    loop(database.listen('kme_changes', hear, signal))
    const keepParts = { pool, store, clock, log: log.slice('key-pool') }
    loop(rebuildWhenInDoubt(keepParts, signal))
    loop(forgetDestroyedKeys({ store, clock, log: log.slice('key-store') }, signal))
    // What one process does for all of them.
    const keepUp = async (held: AbortSignal): Promise<void> => {
      await Promise.all([
        lending.run(held),
        settlement.settleForTheDead(held),
        comparePool(keepParts, held),
        localSource.run(held),
        sessionLedger.run(held),
        replenisher.run(held),
        recordPools({ ...poolParts, watch: poolWatch, history: poolHistory, alarms }, held),
        expireKeys({ store, clock, log: log.slice('key-store'), onExpired: metrics.addKeysExpired }, held),
      ])
    }
    loop(processes.hold('upkeep', keepUp, signal))
    const revocationLists = (): RevocationListSight[] => [
      ...revocationListOf('saeApi.tls.clientCrl', saeFiles),
      ...revocationListOf('peerApi.tls.crl', peerFiles),
      ...(interworkingFiles === undefined ? [] : revocationListOf('interworking.tls.crl', interworkingFiles)),
    ]
    const sights = {
      alarms,
      links: links.statuses,
      peers: allKmes.statuses,
      revocationLists,
      pools: () => [kmeId, ...config.peers.map(({ id }) => id)],
      redisAnswers: () => redis?.answers() ?? true,
      processesWithoutRedis: () => (redis === undefined ? processes.alive().length : 0),
      clock,
      log: log.slice('alarms'),
    }
    loop(processes.hold('alarms', (held) => watchConditions(sights, held), signal))

    // Listeners last: nothing is answered before everything behind it stands.
    const listen = async (
      name: 'sae' | 'peer' | 'admin' | 'interworking',
      app: Parameters<typeof startListener>[0]['app'],
      more: Pick<
        Parameters<typeof startListener>[0],
        'host' | 'port' | 'tls' | 'clientCertificate' | 'minVersion' | 'limits' | 'refused'
      >,
    ): Promise<Listener> => {
      const listener = await startListener({ name, app, log: log.slice('http'), clock, refused: watched[name], ...more })
      cleanUp.defer(() => listener.stop(STOP_GRACE_MS))
      return listener
    }
    const saeListener = await listen('sae', saeApp, {
      host: saeApi.host,
      port: saeApi.port,
      tls: saeFiles.current(),
      clientCertificate: 'required',
      minVersion: saeApi.tls.minVersion,
      limits: { maxConnections: saeApi.maxConnections, maxConnectionsPerClient: saeApi.maxConnectionsPerSae },
    })
    const peerListener = await listen('peer', peerApp, {
      host: peerApi.host,
      port: peerApi.port,
      tls: peerFiles.current(),
      clientCertificate: 'required',
      limits: { maxBodyBytes: PEER_BODY_BYTES_MAX },
      refused: bothOf(countRequests('peer'), refusalLog.ofListener),
    })
    const adminListener = await listen('admin', adminApp, {
      host: adminApi.host,
      port: adminApi.port,
      tls: adminFiles.current(),
      clientCertificate: 'none',
    })
    const interworkingListener =
      config.interworking &&
      interworkingApp &&
      interworkingFiles &&
      (await listen('interworking', interworkingApp, {
        host: config.interworking.host,
        port: config.interworking.port,
        tls: interworkingFiles.current(),
        clientCertificate: 'required',
        limits: { maxBodyBytes: INTERWORKING_BODY_BYTES_MAX, maxConnectionsPerClient: NEIGHBOUR_CONNECTIONS_MAX },
      }))
    const cutRevoked = (listener: Listener, { isRevoked }: InstalledFiles): number =>
      listener.closeConnections((facts) => facts !== undefined && isRevoked(facts.serialNumber, facts.issuer))
    loop(
      saeFiles.watch((contents) => {
        cutRevoked(saeListener, saeFiles)
        saeListener.updateTls(contents)
      }, signal),
    )
    loop(
      peerFiles.watch((contents) => {
        cutRevoked(peerListener, peerFiles)
        peerListener.updateTls(contents)
        peers.updateTls(peerTls())
        links.reconnect()
      }, signal),
    )
    if (interworkingFiles && interworkingListener) {
      loop(
        interworkingFiles.watch((contents) => {
          cutRevoked(interworkingListener, interworkingFiles)
          interworkingListener.updateTls(contents)
          interworking?.updateTls(neighbourTls(interworkingFiles))
        }, signal),
      )
    }
    loop(adminFiles.watch((contents) => adminListener.updateTls(contents), signal))
    peerTrust.onNarrowed((peerKmeId) => {
      const uri = `urn:kme:kme:${peerKmeId}`
      peerListener.closeConnections(
        (facts) => facts?.sanUris.includes(uri) === true && !peerTrust.accepts(peerKmeId, facts.fingerprint256),
      )
      peers.updateTls(peerTls())
    })
    saes.onChange((saeId) => {
      const uri = `urn:kme:sae:${saeId}`
      saeListener.closeConnections(
        (facts) => facts?.sanUris.includes(uri) === true || facts?.subjectCommonNames.includes(saeId) === true,
      )
    })

    const within = async (deadlineMs: number, what: string, work: Promise<unknown>): Promise<void> => {
      const finished = new AbortController()
      const late = clock.sleep(deadlineMs, finished.signal).then(() => {
        if (!finished.signal.aborted) log.warn({ what, deadlineMs }, 'stopping without waiting any longer')
      })
      await Promise.race([work.catch((error: unknown) => log.warn({ error, what }, 'stopping')), late])
      finished.abort()
    }
    // Requests first, because they need everything else; each step has its share of the ten seconds a stop may take.
    const stop = async (): Promise<void> => {
      log.info({ kmeId }, 'stopping')
      streams.end()
      await within(STOP_GRACE_MS, 'requests', Promise.all([saeListener.stop(STOP_GRACE_MS), adminListener.stop(STOP_GRACE_MS)]))
      running.abort()
      await within(1500, 'loops', Promise.all([...loops, peerListener.stop(1000), interworkingListener?.stop(1000)]))
      await within(1000, 'audit', audit.append({ event: 'kme.stopped', actor: 'system', outcome: 'done', subject: { kmeId } }))
      await within(1500, 'connections', cleanUp.disposeAsync())
      log.info({ kmeId }, 'KME stopped')
    }
    let stopped: Promise<void> | undefined

    const ports = {
      sae: saeListener.port,
      peer: peerListener.port,
      admin: adminListener.port,
      ...(interworkingListener && { interworking: interworkingListener.port }),
    }
    log.info({ kmeId, ...ports }, 'KME started')
    return {
      kmeId,
      ports,
      stop: () => {
        stopped ??= stop()
        return stopped
      },
    }
  } catch (error) {
    running.abort()
    await Promise.allSettled(loops)
    await cleanUp.disposeAsync()
    throw error
  }
}

/** The leaf of a certificate file, as operators see it. */
const describeOwn = (usedFor: string, pem: string): InstalledCertificate[] => [
  { ...describeCertificate(pem), usedFor, role: 'own', revocationListNextUpdateMs: undefined },
]

const revocationListOf = (setting: string, files: InstalledFiles): RevocationListSight[] => {
  const nextUpdateMs = files.revocationListNextUpdateMs()
  return nextUpdateMs === undefined ? [] : [{ setting, nextUpdateMs }]
}

/** Every authority of a trust store. */
const describeAnchors = (usedFor: string, files: InstalledFiles): InstalledCertificate[] =>
  (files.current().caPem?.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []).map((pem) => ({
    ...describeCertificate(pem),
    usedFor,
    role: 'trust-anchor',
    revocationListNextUpdateMs: files.revocationListNextUpdateMs(),
  }))
