/** The program that the test of the command line starts: `device-emulator` alone, as `kme` carries it. */
import { Command } from 'commander'
import { addDeviceEmulatorCommand } from '../../src/cli/device-emulator-command.ts'

const program = new Command('kme')
addDeviceEmulatorCommand(program)
await program.parseAsync()
