/** What to try once the demo is ready: lines to copy into a POSIX shell, each of which works by itself. */
import { join } from 'node:path'
import { describeShape } from './kept-shape.ts'
import { DEFAULT_BASE_PORT, portsOf, type DemoFiles, type DemoLayout, type KmeName, type SaeName } from './layout.ts'

/** @returns text for the terminal. */
export const nextSteps = (files: DemoFiles, basePort: number, layout: DemoLayout): string => {
  const curl = `curl -sS --cacert ${quoted(files.ca)}`
  const as = (sae: SaeName): string =>
    `${curl} --cert ${quoted(join(files.directory, `sae-${sae}.pem`))} --key ${quoted(join(files.directory, `sae-${sae}.key`))}`
  const keys = (kme: KmeName): string => `https://127.0.0.1:${portsOf(basePort, kme).sae}/api/v1/keys`
  const keyId = join(files.directory, 'key-id.txt')
  // Shows the answer and keeps the key_ID alone: a key should not lie about in a file.
  const keepKeyId = `sed -n -e p -e ${quoted(`s/.*"key_ID":"\\([^"]*\\)".*/\\1/w ${keyId}`)}`
  const port = basePort === DEFAULT_BASE_PORT ? '' : `KME_DEMO_PORT=${basePort} `
  const adminOfA = `KME_ADMIN_URL=https://127.0.0.1:${portsOf(basePort, 'kme-a').admin} KME_ADMIN_TOKEN_FILE=${quoted(files.adminToken)} KME_CA=${quoted(files.ca)}`
  const distant = layout.links.some(({ id }) => id === 'a-c') ? undefined : layout.saes.find(({ home }) => home === 'kme-c')
  const relayed =
    distant === undefined
      ? ''
      : `
# no link joins kme-a and kme-c: their keys are relayed over the KMEs between them
${as('alice')} ${keys('kme-a')}/carol/enc_keys | ${keepKeyId}
${as('carol')} "${keys('kme-c')}/alice/dec_keys?key_ID=$(cat ${quoted(keyId)})"
`
  const admin = `${curl} -H "Authorization: Bearer $(cat ${quoted(files.adminToken)})"`

  return `
${drawLayout(layout)}. Lines to copy:

# alice asks kme-a for a key she will share with bob
${as('alice')} ${keys('kme-a')}/bob/enc_keys | ${keepKeyId}

# bob fetches the same key from kme-b by its key_ID; a second time there is none
${as('bob')} "${keys('kme-b')}/alice/dec_keys?key_ID=$(cat ${quoted(keyId)})"
${relayed}
# how many keys are ready
${as('alice')} ${keys('kme-a')}/bob/status

# the admin API of kme-a
${admin} https://127.0.0.1:${portsOf(basePort, 'kme-a').admin}/api/v1/links

# the link between kme-a and kme-b: error rate, key rate, beside what its model expects, and how secret its key is
${adminOfA} npx kme link show a-b

# let Eve measure a quarter of its pulses: no key any more, an alarm, and the pool drains as keys are fetched; then send her away
${port}npx kme demo eve kme-a kme-b --intercept 0.25
${port}npx kme demo eve kme-a kme-b off

Files       ${files.directory}
Logs        ${files.logs}
Stop        Ctrl-C. The next start goes on with the same keys; "npm start -- --reset" begins anew.
`
}

/** `3 KMEs in a line: kme-a (alice, mallory) - kme-b (bob) - kme-c (carol)`. */
const drawLayout = ({ shape, kmes, saes }: DemoLayout): string => {
  const sites = kmes.map((kme) => {
    const residents = saes.filter(({ home }) => home === kme).map(({ name }) => name)
    return `${kme} (${residents.join(', ')})`
  })
  if (shape.ring) sites.push(kmes[0] as string)
  return `${describeShape(shape)}: ${sites.join(' - ')}`
}

const quoted = (text: string): string => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`)
