/** `kme channel-emulator`: the fibre, the receiver and the eavesdropper between the two stations of a BB84 link. */
import { constants, setPriority } from 'node:os'
import type { Command } from 'commander'
import { PROFILE_NAMES, profileNamed } from '../bb84/profile.ts'
import type { Bb84Profile } from '../bb84/profile.ts'
import { systemRandom } from '../kernel/random.ts'
import { createChannelServer } from '../quantum-channel/channel-server.ts'
import { CONTROL_LINES, obeyControlLine } from '../quantum-channel/control-line.ts'
import { runInForeground, STOP_WITH_PARENT } from './emulator-command.ts'
import { decimal, wholeNumber } from './terminal.ts'

interface Flags {
  readonly portA: number
  readonly portB: number
  readonly controlPort?: number
  readonly host: string
  readonly link: string
  readonly profile: string
  readonly distanceKm?: number
  readonly attenuation?: number
  readonly efficiency?: number
  readonly darkCounts?: number
  readonly afterpulses?: number
  readonly deadTimeNs?: number
  readonly misalignment?: number
  readonly pulseRate?: number
  readonly stopWithParent: boolean
}

/** Adds the command to the operator's command line. It runs until `quit`, SIGINT or SIGTERM. */
export const addChannelEmulatorCommand = (program: Command): void => {
  program
    .command('channel-emulator')
    .summary('run the emulated quantum channel of a BB84 link')
    .description(
      'Runs what is between the two stations of a BB84 link: fibre, detectors and, when told so, an eavesdropper.\n' +
        "Point the bb84 link driver of Alice's KME at port a and that of Bob's at port b. Light has no strength of its own here:\n" +
        "Alice's station says how bright its pulses are.\n" +
        'Prints "LISTENING a=<port> b=<port> control=<port>" when ready.',
    )
    .option('--port-a <port>', "port of Alice's end; 0 takes any free one", wholeNumber(0, 65_535), 0)
    .option('--port-b <port>', "port of Bob's end; 0 takes any free one", wholeNumber(0, 65_535), 0)
    .option('--control-port <port>', 'take the lines below on this port of 127.0.0.1 too (default: no)', wholeNumber(0, 65_535))
    .option('--host <address>', 'address to listen on; whoever reads here reads the light, so keep it local', '127.0.0.1')
    .option('--link <name>', 'refuse stations of any other link', '')
    .option('--profile <name>', `what it is like: ${PROFILE_NAMES.join(', ')}`, 'metro')
    .option('--distance-km <km>', 'length of the fibre (default: of the profile, as of all below)', decimal(0, 1_000))
    .option('--attenuation <dB/km>', 'loss of the fibre', decimal(0, 10))
    .option('--efficiency <p>', 'of the receiver, optics times detector', decimal(0, 1))
    .option('--dark-counts <p>', 'probability per detector and slot', decimal(0, 0.5))
    .option('--afterpulses <p>', 'probability that a click is followed by another', decimal(0, 0.5))
    .option('--dead-time-ns <ns>', 'time in which the receiver is blind after a click', decimal(0, 1e9))
    .option('--misalignment <p>', 'probability that a photon goes to the wrong detector', decimal(0, 0.5))
    .option('--pulse-rate <Hz>', 'slots per second, by which the dead time is a number of slots', decimal(1, 1e11))
    .option(...STOP_WITH_PARENT)
    .addHelpText('after', `\nWhile it runs, type one of: ${CONTROL_LINES}`)
    .action((flags: Flags) => runChannelEmulator(flags))
}

const runChannelEmulator = async (flags: Flags): Promise<void> => {
  // Light can wait; the requests that KMEs on the same machine answer cannot.
  setPriority(constants.priority.PRIORITY_BELOW_NORMAL)
  const server = createChannelServer({
    host: flags.host,
    portA: flags.portA,
    portB: flags.portB,
    ...(flags.controlPort !== undefined && { controlPort: flags.controlPort }),
    linkId: flags.link,
    profile: profileOf(flags),
    streams: () => systemRandom,
  })
  await runInForeground(
    {
      start: server.start,
      announcement: () => {
        const { alice, bob, control } = server.ports
        return `LISTENING a=${alice} b=${bob}${flags.controlPort === undefined ? '' : ` control=${control}`}`
      },
      obey: (line) => obeyControlLine(server, line),
      quitAsked: server.quitAsked,
      stop: server.stop,
    },
    flags.stopWithParent,
  )
}

const profileOf = (flags: Flags): Bb84Profile =>
  profileNamed(flags.profile, {
    ...given('distanceKm', flags.distanceKm),
    ...given('attenuationDbPerKm', flags.attenuation),
    ...given('misalignment', flags.misalignment),
    ...given('pulseRateHz', flags.pulseRate),
    receiver: {
      ...given('efficiency', flags.efficiency),
      ...given('darkCountProbability', flags.darkCounts),
      ...given('afterpulseProbability', flags.afterpulses),
      ...given('deadTimeNs', flags.deadTimeNs),
    },
  })

const given = <Name extends string>(name: Name, value: number | undefined): { [name in Name]?: number } =>
  value === undefined ? {} : ({ [name]: value } as { [name in Name]: number })
