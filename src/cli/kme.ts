/** The `kme` command line: one group of commands per file. A mistake ends with one clear line and exit status 1. */
import { Command } from 'commander'
import { systemClock } from '../kernel/clock.ts'
import { systemRandom } from '../kernel/random.ts'
import { addAdminCommands } from './admin-commands.ts'
import { addChannelEmulatorCommand } from './channel-emulator-command.ts'
import { addDemoCommand } from './demo-command.ts'
import { addDeviceEmulatorCommand } from './device-emulator-command.ts'
import { addDoctorCommand } from './doctor-command.ts'
import { addOperatorCommands } from './operator-commands.ts'
import { addPkiCommands } from './pki-commands.ts'
import { addRedisCommands } from './redis-commands.ts'
import { addSaeClientCommands } from './sae-client-commands.ts'
import { addStartCommand, readVersion } from './start-command.ts'

const program = new Command('kme')
  .description('Key Management Entity for quantum key distribution networks (ETSI GS QKD 014)')
  .version(readVersion())
  .showHelpAfterError('(kme --help shows what there is)')

addStartCommand(program)
addDemoCommand(program)
addDeviceEmulatorCommand(program)
addChannelEmulatorCommand(program)
addPkiCommands(program, { clock: systemClock, random: systemRandom, print: (text) => console.log(text) })
addAdminCommands(program)
addSaeClientCommands(program)
addOperatorCommands(program)
addRedisCommands(program)
addDoctorCommand(program, { clock: systemClock })

try {
  await program.parseAsync()
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error))
  if (process.env['KME_TRACE'] !== undefined) console.error(error)
  process.exitCode = 1
}
