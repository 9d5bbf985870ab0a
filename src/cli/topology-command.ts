/** `kme topology`: the network of all KMEs, as a table or as a drawing. */
import { writeFileSync } from 'node:fs'
import type { Command } from 'commander'
import type { components } from '../generated/admin.ts'
import { systemClock } from '../kernel/clock.ts'
import { asAdmin, withAdminOptions, type AdminOptions } from './admin-access.ts'
import { duration, table, toJson } from './terminal.ts'
import { drawTopology } from './topology-svg.ts'

type Topology = components['schemas']['Topology']

interface TopologyOptions extends AdminOptions {
  readonly svg?: string
}

export const addTopologyCommand = (program: Command): void => {
  withAdminOptions(program.command('topology'))
    .description('the KMEs of the network, the links between them, and the best way to each KME')
    .option('--svg <file>', 'write a drawing instead of printing a table')
    .action((options: TopologyOptions) =>
      asAdmin(options, async (client) => {
        const topology = (await client.get('topology')) as unknown as Topology
        if (options.svg !== undefined) writeFileSync(options.svg, drawTopology(topology))
        if (options.json === true) console.log(toJson(topology))
        else if (options.svg === undefined) console.log(topologyTables(topology))
        else console.log(`${options.svg}: ${topology.kmes.length} KMEs, ${topology.links.length} links`)
      }),
    )
}

const topologyTables = ({ kmeId, kmes, links }: Topology): string =>
  [
    table(
      ['kme', 'hops', 'best way', 'stated', 'sequence'],
      kmes.map(({ kmeId: name, route, issuedAt, sequence }) => [
        name === kmeId ? `${name} (asked)` : name,
        route === null ? '-' : String(route.length - 1),
        route === null ? 'none' : route.join(' > '),
        `${duration(Math.max(0, systemClock.nowMs() - Date.parse(issuedAt)))} ago`,
        String(sequence),
      ]),
    ),
    table(
      ['link', 'between', 'and', 'state', 'keys', 'rate'],
      links.map(({ linkId, one, other, state, availableKeys, keyRateBps }) => [
        linkId,
        one,
        other,
        state,
        String(availableKeys),
        `${keyRateBps} bit/s`,
      ]),
    ),
  ].join('\n\n')
