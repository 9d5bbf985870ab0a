/** `kme link new-secret`: what two KMEs need before their QKD link can authenticate its first messages. Asks no KME. */
import type { Command } from 'commander'
import { systemRandom } from '../kernel/random.ts'
import {
  PRE_SHARED_BYTES_DEFAULT,
  PRE_SHARED_BYTES_MAX,
  PRE_SHARED_BYTES_MIN,
  writePreSharedSecret,
} from '../link/pre-shared-secret.ts'
import { wholeNumber } from './terminal.ts'

/** Adds `new-secret` to the group `link`. */
export const addNewSecret = (link: Command): void => {
  link
    .command('new-secret <file>')
    .description('write a new pre-shared secret for one QKD link (mode 0600)')
    .option(
      '--bytes <n>',
      'how many secret bytes',
      wholeNumber(PRE_SHARED_BYTES_MIN, PRE_SHARED_BYTES_MAX),
      PRE_SHARED_BYTES_DEFAULT,
    )
    .addHelpText(
      'after',
      `
The two KMEs of the link authenticate their first blocks with it; later ones with key that the link made. Copy the file to both over a
way nobody listens to, name it in the configuration of the link, and remove it from wherever else it was. A KME takes a secret once:
when both have used one up without making key, they need a new one.`,
    )
    .action(async (file: string, { bytes }: { bytes: number }) => {
      const segmentId = await writePreSharedSecret(file, bytes, systemRandom)
      console.log(`${file}: secret ${segmentId}, ${bytes} bytes. Copy it to both ends of one link.`)
    })
}
