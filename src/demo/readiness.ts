/** Whether the demo network is ready, asked as its users would ask: over HTTPS with the certificates in the directory. */
import { readFileSync } from 'node:fs'
import { request } from 'node:https'
import { join } from 'node:path'
import { portsOf, type DemoFiles, type DemoLayout, type KmeName, type SaeName } from './layout.ts'

const ANSWER_DEADLINE_MS = 2000

/** @returns what is still missing; nothing when every KME serves and every pool has keys. */
export const findMissing = async (files: DemoFiles, basePort: number, layout: DemoLayout): Promise<readonly string[]> => {
  const ca = readFileSync(files.ca)
  const health = await Promise.all(
    layout.kmes.map(async (kme) => {
      const answer = await get({ ca, port: portsOf(basePort, kme).admin, path: '/health/ready' })
      if (answer?.status === 200) return undefined
      return answer === undefined ? `${kme} does not answer yet` : `${kme} is not ready: ${failingIn(answer.text)}`
    }),
  )
  const missing = health.filter((text) => text !== undefined)
  if (missing.length > 0) return missing
  const pools = await Promise.all(
    allPairs(layout).map(async ({ kme, master, slave }) => {
      const path = `/api/v1/keys/${slave}/status`
      const answer = await get({ ca, port: portsOf(basePort, kme).sae, path, ...credentialsOf(files, master) })
      return answer?.status === 200 && storedKeys(answer.text) > 0
        ? undefined
        : `${kme} has no keys for ${master} and ${slave} yet`
    }),
  )
  return pools.filter((text) => text !== undefined)
}

/** Each KME with each other, over a link or by relay, with one SAE at either end. */
const allPairs = ({ kmes, saes }: DemoLayout): { kme: KmeName; master: SaeName; slave: SaeName }[] => {
  const saeAt = (kme: KmeName): SaeName => saes.find(({ home, sharesWith }) => home === kme && sharesWith.length > 0)!.name
  return kmes.flatMap((kme) =>
    kmes.filter((other) => other !== kme).map((other) => ({ kme, master: saeAt(kme), slave: saeAt(other) })),
  )
}

const credentialsOf = ({ directory }: DemoFiles, sae: SaeName): { cert: Buffer; key: Buffer } => ({
  cert: readFileSync(join(directory, `sae-${sae}.pem`)),
  key: readFileSync(join(directory, `sae-${sae}.key`)),
})

const storedKeys = (text: string): number => Number((JSON.parse(text) as { stored_key_count?: number }).stored_key_count)

const failingIn = (text: string): string => {
  try {
    return (JSON.parse(text) as { failing: string[] }).failing.join(', ')
  } catch {
    return 'unreadable answer'
  }
}

interface Question {
  readonly port: number
  readonly path: string
  readonly ca: Buffer
  readonly cert?: Buffer
  readonly key?: Buffer
}

/** @returns undefined when there is no answer in time. */
const get = (question: Question): Promise<{ status: number; text: string } | undefined> =>
  new Promise((resolve) => {
    const outgoing = request({ host: '127.0.0.1', agent: false, timeout: ANSWER_DEADLINE_MS, ...question }, (incoming) => {
      let text = ''
      incoming.setEncoding('utf8')
      incoming.on('data', (chunk: string) => (text += chunk))
      incoming.on('error', () => resolve(undefined))
      incoming.on('end', () => resolve({ status: incoming.statusCode ?? 0, text }))
    })
    outgoing.on('timeout', () => outgoing.destroy())
    outgoing.on('error', () => resolve(undefined))
    outgoing.end()
  })
