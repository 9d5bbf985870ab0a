/** `kme device-emulator`: a pair of emulated QKD devices for demos and trials (docs/device-protocol.md). */
import type { Command } from 'commander'
import { CONTROL_LINES, obeyControlLine } from '../device-emulator/control-line.ts'
import { createDeviceEmulator } from '../device-emulator/device-emulator.ts'
import type { DeviceEmulatorOptions } from '../device-emulator/device-emulator.ts'
import { runInForeground, STOP_WITH_PARENT } from './emulator-command.ts'
import { decimal, wholeNumber } from './terminal.ts'

interface Flags {
  readonly portA: number
  readonly portB: number
  readonly host: string
  readonly link: string
  readonly blockBytes: number
  readonly rate: number
  readonly blocks?: number
  readonly qber: number
  readonly loss: number
  readonly corrupt: number
  readonly bufferBlocks: number
  readonly paused: boolean
  readonly stopWithParent: boolean
}

/** Adds the command to the operator's command line. It runs until `quit`, SIGINT or SIGTERM. */
export const addDeviceEmulatorCommand = (program: Command): void => {
  program
    .command('device-emulator')
    .summary('run a pair of emulated QKD devices')
    .description(
      'Runs both devices of a QKD link: each has a TCP port, both deliver the same blocks of random key.\n' +
        'Point the tcp link driver of one KME at port a and that of its peer at port b.\n' +
        'Prints "LISTENING a=<port> b=<port>" when ready.',
    )
    .option('--port-a <port>', 'port of the device at end a; 0 takes any free one', wholeNumber(0, 65_535), 0)
    .option('--port-b <port>', 'port of the device at end b; 0 takes any free one', wholeNumber(0, 65_535), 0)
    .option('--host <address>', 'address to listen on; keys travel unencrypted, so keep it local', '127.0.0.1')
    .option('--link <name>', 'refuse drivers of any other link', '')
    .option('--block-bytes <n>', 'key bytes per block', wholeNumber(1, 1_000_000), 8192)
    .option('--rate <n>', 'blocks per second', decimal(0, 100_000), 10)
    .option('--blocks <n>', 'produce no more than this many blocks (default: no limit)', wholeNumber(1, 2 ** 53 - 1))
    .option('--qber <p>', 'mean quantum bit error rate, 0 to 1', decimal(0, 1), 0.02)
    .option('--loss <p>', 'probability that a block reaches one end only', decimal(0, 1), 0)
    .option('--corrupt <p>', 'probability that one bit of a block is wrong at one end', decimal(0, 1), 0)
    .option('--buffer-blocks <n>', 'unacknowledged blocks each end keeps before both stop', wholeNumber(1, 1_000_000), 1024)
    .option('--paused', 'produce nothing until "resume" is typed', false)
    .option(...STOP_WITH_PARENT)
    .addHelpText('after', `\nWhile it runs, type one of: ${CONTROL_LINES}`)
    .action((flags: Flags) => runDeviceEmulator(flags))
}

const runDeviceEmulator = async (flags: Flags): Promise<void> => {
  const options: DeviceEmulatorOptions = {
    portA: flags.portA,
    portB: flags.portB,
    host: flags.host,
    linkName: flags.link,
    blockBytes: flags.blockBytes,
    rateBlocksPerS: flags.rate,
    ...(flags.blocks !== undefined && { totalBlocks: flags.blocks }),
    qberMean: flags.qber,
    lossProbability: flags.loss,
    corruptionProbability: flags.corrupt,
    bufferBlocks: flags.bufferBlocks,
    startPaused: flags.paused,
  }
  const emulator = createDeviceEmulator(options)
  await runInForeground(
    {
      start: emulator.start,
      announcement: () => `LISTENING a=${emulator.ports.a} b=${emulator.ports.b}`,
      obey: (line) => obeyControlLine(emulator, line),
      stop: emulator.stop,
    },
    flags.stopWithParent,
  )
}
