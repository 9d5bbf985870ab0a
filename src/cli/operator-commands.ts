/** The operator's commands over the admin API: `kme status`, `kme sae|link|pool|peer|alarm|audit ...`. A program gets the API's own JSON
 *  with --json; a person gets a table. */
import type { Command } from 'commander'
import type { components } from '../generated/admin.ts'
import { asAdmin, withAdminOptions, type AdminOptions } from './admin-access.ts'
import { addModel, addNewSecret, addShowLink, linkTable } from './link-commands.ts'
import { poolTable, addPoolCommands } from './pool-commands.ts'
import { showSaeStatus, withSaeOptions, type SaeOptions } from './sae-client-commands.ts'
import { age, duration, table, toJson, wholeNumber } from './terminal.ts'
import { addTopologyCommand } from './topology-command.ts'

interface AuditOptions extends AdminOptions {
  readonly before?: string
  readonly event?: string
  readonly actor?: string
  readonly limit?: number
}

type Schemas = components['schemas']

/** Adds `status`, `sae`, `link`, `pool`, `peer`, `alarm`, `topology` and `audit` to the program. */
export const addOperatorCommands = (program: Command): void => {
  addStatus(program)
  addSaeCommands(group(program, 'sae', 'SAEs: who may use this KME, and who may share keys with whom'))
  const link = group(program, 'link', 'QKD links')
  addList(link, 'all QKD links', 'links', linkTable)
  addNewSecret(link)
  addShowLink(link)
  addModel(link)
  addPoolCommands(group(program, 'pool', 'key pools'))
  addPeerCommands(group(program, 'peer', 'other KMEs'))
  addList(group(program, 'alarm', 'alarms'), 'alarms: raised, and cleared in the last seven days', 'alarms', alarmTable)
  addTopologyCommand(program)
  addAuditList(group(program, 'audit', 'the audit log'))
}

/** The command group of this name; another file may have made it. */
const group = (program: Command, name: string, description: string): Command =>
  program.commands.find((command) => command.name() === name) ?? program.command(name).description(description)

const addStatus = (program: Command): void => {
  withSaeOptions(withAdminOptions(program.command('status [slaveSaeId]')))
    .description('state of a KME (admin API); with a slave SAE: what could be had to share with it (ETSI GS QKD 014, Get status)')
    .addHelpText(
      'after',
      `
Without an argument the admin API is asked: --admin, --token-file, --ca. Exit status 2 when the KME is not ready.
With a slave SAE the SAE API is asked: --kme, --cert, --key, --ca.`,
    )
    .action((slaveSaeId: string | undefined, options: AdminOptions & SaeOptions) =>
      slaveSaeId === undefined ? showKme(options) : showSaeStatus(slaveSaeId, options),
    )
}

const showKme = (options: AdminOptions): Promise<void> =>
  asAdmin(options, async (client) => {
    const [kme, pools, links, peers] = (await Promise.all([
      client.get('kme'),
      client.get('pools'),
      client.get('links'),
      client.get('peers'),
    ])) as unknown as [Schemas['Kme'], Schemas['PoolList'], Schemas['LinkList'], Schemas['PeerList']]
    if (kme.state !== 'ready') process.exitCode = 2
    if (options.json === true) return console.log(toJson({ kme, ...pools, ...links, ...peers }))
    const failing = kme.probes.filter(({ ok }) => !ok).map(({ name }) => name)
    const why = failing.length > 0 ? ` (failing: ${failing.join(', ')})` : ''
    console.log(`${kme.kmeId}: ${kme.state}${why}, version ${kme.version}, up for ${duration(kme.uptimeS * 1000)}`)
    const sections = [
      ['Pools', poolTable(pools.pools)],
      ['Links', linkTable(links.links)],
      ['Peers', peerTable(peers.peers)],
      ['Processes', processTable(kme.processes)],
    ]
    for (const [title, text] of sections) console.log(`\n${title}\n${text}`)
  })

/** @param draw takes what the admin API lists under `path`. */
const addList = (parent: Command, description: string, path: string, draw: (entries: never) => string): void => {
  withAdminOptions(parent.command('list'))
    .description(`show ${description}`)
    .action((options: AdminOptions) =>
      asAdmin(options, async (client) => {
        const answer = await client.get(path)
        console.log(options.json === true ? toJson(answer) : draw(answer[path] as never))
      }),
    )
}

const addPeerCommands = (peer: Command): void => {
  addList(peer, 'all peer KMEs', 'peers', peerTable)
  const certificate = (verb: 'approve' | 'withdraw', description: string): void => {
    withAdminOptions(peer.command(`${verb} <kmeId>`))
      .description(description)
      .requiredOption('--fingerprint <sha256>', 'of its certificate, as the operator of that KME reads it to you')
      .action((kmeId: string, options: AdminOptions & { fingerprint: string }) =>
        asAdmin(options, async (client) => {
          const { fingerprint } = options
          const answer = await client.post(`peers/${encodeURIComponent(kmeId)}/${verb}`, { fingerprint })
          printPeer(answer, options)
        }),
      )
  }
  certificate('approve', 'accept a certificate of a KME; from then on it needs an approved one')
  certificate('withdraw', 'accept a certificate of a KME no more, and cut its connections')
  withAdminOptions(peer.command('rekey <kmeId>'))
    .description('replace the keys of all sessions with a KME')
    .action((kmeId: string, options: AdminOptions) =>
      asAdmin(options, async (client) => printPeer(await client.post(`peers/${encodeURIComponent(kmeId)}/rekey`), options)),
    )
}

const printPeer = (answer: Record<string, unknown>, options: AdminOptions): void =>
  console.log(options.json === true ? toJson(answer) : peerTable([answer as unknown as Schemas['Peer']]))

const certificatesText = (certificates: Schemas['Peer']['certificates']): string => {
  if (certificates === null) return 'any of the authority'
  return certificates.map(({ fingerprint }) => `${fingerprint.slice(0, 11)}...`).join(' ') || 'none'
}

const peerTable = (peers: readonly Schemas['Peer'][]): string =>
  table(
    ['kme', 'url', 'available', 'last answer', 'failures in a row', 'certificates'],
    peers.map((peer) => [
      peer.kmeId,
      peer.url,
      peer.available ? 'yes' : 'no',
      age(peer.lastAnswerAgeMs),
      String(peer.failuresInARow),
      certificatesText(peer.certificates),
    ]),
  )

const alarmTable = (alarms: readonly Schemas['Alarm'][]): string =>
  table(
    ['alarm', 'severity', 'raised', 'cleared', 'text'],
    alarms.map(({ name, severity, raisedAt, clearedAt, text }) => [name, severity, raisedAt, clearedAt ?? '-', text]),
  )

const processTable = (processes: Schemas['Kme']['processes']): string =>
  table(
    ['process', 'host', 'pid', 'started at', 'seen', 'duties'],
    processes.map((process) => [
      process.processId,
      process.host,
      String(process.pid),
      process.startedAt,
      age(process.seenAgeMs),
      process.duties.join(' ') || '-',
    ]),
  )

const saeTable = (saes: readonly Schemas['Sae'][]): string =>
  table(
    ['sae', 'kme', 'enabled', 'shares with'],
    saes.map((sae) => [sae.saeId, sae.kmeId, sae.enabled ? 'yes' : 'no', sae.sharesWith.join(' ') || '-']),
  )

const addSaeCommands = (sae: Command): void => {
  addList(sae, 'all registered SAEs', 'saes', saeTable)

  withAdminOptions(sae.command('register <saeId>'))
    .description('register an SAE; it shares keys with nobody until "kme sae allow"')
    .option('--home <kmeId>', 'the KME it is homed at; the asked KME unless told')
    .action((saeId: string, options: AdminOptions & { home?: string }) =>
      asAdmin(options, async (client) => {
        const kmeId = options.home ?? (await client.get('kme'))['kmeId']
        printSae(await client.post('saes', { saeId, kmeId }), options)
      }),
    )

  const change = (verb: 'enable' | 'disable', description: string): void => {
    withAdminOptions(sae.command(`${verb} <saeId>`))
      .description(description)
      .action((saeId: string, options: AdminOptions) =>
        asAdmin(options, async (client) => printSae(await client.post(`saes/${encodeURIComponent(saeId)}/${verb}`), options)),
      )
  }
  change('enable', 'let an SAE in again')
  change('disable', 'lock an SAE out at once, also on open connections')

  const pair = (verb: 'allow' | 'deny', description: string): void => {
    withAdminOptions(sae.command(`${verb} <one> <other>`))
      .description(description)
      .action((one: string, other: string, options: AdminOptions) =>
        asAdmin(options, async (client) => {
          const answer = await client.post('pairs', { one, other, allowed: verb === 'allow' })
          console.log(
            options.json === true ? toJson(answer) : `${one} and ${other} may ${verb === 'allow' ? '' : 'not '}share keys`,
          )
        }),
      )
  }
  pair('allow', 'let two SAEs share keys')
  pair('deny', 'forbid two SAEs to share keys')
}

const printSae = (answer: Record<string, unknown>, options: AdminOptions): void =>
  console.log(options.json === true ? toJson(answer) : saeTable([answer as unknown as Schemas['Sae']]))

const addAuditList = (audit: Command): void => {
  withAdminOptions(audit.command('list'))
    .description('show the newest records')
    .option('--event <event>', 'only this event, such as key.delivered')
    .option('--actor <actor>', 'only this actor, such as sae:alice')
    .option('--before <seq>', 'only records older than this sequence number')
    .option('--limit <n>', 'how many', wholeNumber(1, 1000))
    .action((options: AuditOptions) =>
      asAdmin(options, async (client) => {
        const query = new URLSearchParams()
        for (const name of ['event', 'actor', 'before', 'limit'] as const) {
          const value = options[name]
          if (value !== undefined) query.set(name, String(value))
        }
        const page = (await client.get(query.size > 0 ? `audit?${query.toString()}` : 'audit')) as unknown as Schemas['AuditPage']
        if (options.json === true) return console.log(toJson(page))
        console.log(auditTable(page.records))
        if (page.nextBefore !== null) console.error(`There is more: --before ${page.nextBefore}`)
      }),
    )
}

const auditTable = (records: readonly Schemas['AuditRecord'][]): string =>
  table(
    ['seq', 'at', 'event', 'actor', 'outcome', 'subject'],
    records.map(({ seq, at, event, actor, outcome, subject }) => [seq, at, event, actor, outcome, JSON.stringify(subject)]),
  )
