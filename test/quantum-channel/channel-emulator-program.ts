/** The program that the test of the command line starts: `channel-emulator` alone, as `kme` carries it. */
import { Command } from 'commander'
import { addChannelEmulatorCommand } from '../../src/cli/channel-emulator-command.ts'

const program = new Command('kme')
addChannelEmulatorCommand(program)
try {
  await program.parseAsync()
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`)
  process.exitCode = 1
}
