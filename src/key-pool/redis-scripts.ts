/** The scripts of the pool in Redis, one per file in lua/, each after the same beginning. */
import { readFileSync } from 'node:fs'
import type { RedisScript } from '../redis/redis.ts'

const NAMES = [
  'join',
  'take',
  'offer',
  'give-back',
  'adjust-theirs',
  'read-level',
  'begin-rebuild',
  'add-to-rebuild',
  'finish-rebuild',
] as const
export type PoolScript = (typeof NAMES)[number]

const read = (name: string): string => readFileSync(new URL(`lua/${name}.lua`, import.meta.url), 'utf8')
const nameInRedis = (name: PoolScript): string => `openkme_${name.replaceAll('-', '_')}`

export const poolScripts = (): Readonly<Record<PoolScript, RedisScript>> => {
  const prelude = read('prelude')
  const scripts = NAMES.map((name) => [name, { name: nameInRedis(name), lua: `${prelude}${read(name)}` }] as const)
  return Object.fromEntries(scripts) as Record<PoolScript, RedisScript>
}
