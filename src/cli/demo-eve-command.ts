/** `kme demo eve`: puts an eavesdropper on a link of the running demo network, or takes her away. The KMEs are not told: all they
 *  see of her is what she does to the light. */
import type { Command } from 'commander'
import { filesOf, layoutOf, linkPortsOf, portsOf, DEFAULT_SHAPE } from '../demo/layout.ts'
import type { DemoLayout, DemoLink } from '../demo/layout.ts'
import { keptShape } from '../demo/kept-shape.ts'
import { askOnControlPort } from '../quantum-channel/control-port.ts'
import { decimal } from './terminal.ts'

interface Flags {
  readonly intercept?: number
  readonly split?: boolean
}

export interface DemoPlace {
  /** Absolute. */
  readonly directory: string
  readonly basePort: number
}

/** Adds the command to `kme demo`. @param place where the demo runs, by the environment. */
export const addDemoEveCommand = (demo: Command, place: () => DemoPlace): void => {
  demo
    .command('eve <kme> <kme> [off]')
    .summary('let somebody listen on a QKD link of the running demo')
    .description(
      'Lets an eavesdropper into the quantum channel between two KMEs of the running demo, or sends her away with "off".\n' +
        'Examples: kme demo eve kme-a kme-b --intercept 0.15; kme demo eve kme-a kme-b --split; kme demo eve kme-a kme-b off',
    )
    .option('--intercept <fraction>', 'she measures this fraction of the pulses and sends on what she saw', decimal(0, 1))
    .option('--split', 'she keeps a photon of every pulse that has several, and blocks others')
    .action(async (first: string, second: string, off: string | undefined, flags: Flags) => {
      const { directory, basePort } = place()
      const order = orderOf(off, flags)
      const link = linkBetween(layoutOf(keptShape(filesOf(directory)) ?? DEFAULT_SHAPE), first, second)
      await give(linkPortsOf(basePort, link).control, link, order.line)
      console.log(`Link ${link.id}: ${order.meaning}`)
      console.log(`
What to watch: ${order.watch}

export KME_ADMIN_URL=https://127.0.0.1:${portsOf(basePort, link.ends[0]).admin} KME_ADMIN_TOKEN_FILE=${directory}/admin-token KME_CA=${directory}/ca.pem
npx kme link show ${link.id}   error rate and key per block, beside what to expect
npx kme pool watch      keys that come and go
npx kme alarm list      what the KME makes of it

A link rests while its pool is full ("kme pool list"), and then nobody is there to notice Eve: fetch keys until it distils again.`)
    })
}

interface Order {
  /** To the emulator. */
  readonly line: string
  readonly meaning: string
  readonly watch: string
}

const orderOf = (off: string | undefined, { intercept, split = false }: Flags): Order => {
  const asked = [off !== undefined, intercept !== undefined, split].filter((one) => one).length
  if (asked !== 1 || (off !== undefined && off !== 'off')) throw new Error('say one of: --intercept <fraction>, --split, off')
  if (intercept !== undefined) {
    return {
      line: `eve intercept ${intercept}`,
      meaning: `Eve measures ${+(intercept * 100).toFixed(4)} % of the pulses in a random basis and sends on what she saw.`,
      watch:
        `the error rate (QBER) of the next blocks grows by about ${(intercept * 25).toFixed(1)} percentage points. The more she ` +
        'hears, the fewer\nsecret bits a block yields; when it yields none it is discarded, and the pools drain.',
    }
  }
  if (split) {
    return {
      line: 'eve split',
      meaning: 'Eve keeps a photon of every pulse that has several, and lets as few others pass as she can unnoticed.',
      watch:
        'the error rate and the gain of the signal stay. The gains of the decoys move, the bound on single photons falls\n' +
        'with them, and blocks yield fewer secret bits or none; then the pools drain.',
    }
  }
  return {
    line: 'eve off',
    meaning: 'Eve is gone.',
    watch: 'blocks that began while she listened may still be discarded; after them the pools fill again.',
  }
}

const linkBetween = ({ links }: DemoLayout, first: string, second: string): DemoLink => {
  const link = links.find(
    ({ ends }) => (ends as readonly string[]).includes(first) && (ends as readonly string[]).includes(second),
  )
  if (link !== undefined && first !== second) return link
  throw new Error(
    `there is no link between ${first} and ${second}: ${links.map(({ ends }) => ends.join(' and ')).join(', ')} have one`,
  )
}

const give = async (port: number, { id }: DemoLink, line: string): Promise<void> => {
  const answer = await askOnControlPort(port, line).catch((error: unknown) => {
    const reason = error instanceof Error ? error.message : String(error)
    throw new Error(
      `The quantum channel of link ${id} does not answer on port ${port} (${reason}). Does the demo run? See KME_DEMO_PORT.`,
    )
  })
  if (answer !== 'ok') throw new Error(`the quantum channel of link ${id} refuses: ${answer}`)
}
