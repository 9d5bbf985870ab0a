/** `kme redis ...`: what an operator of Redis needs. */
import type { Command } from 'commander'
import { countPoints } from '../delivery/rate-limiter.ts'
import { poolScripts } from '../key-pool/redis-scripts.ts'
import { toFunctionLibrary, type RedisScript } from '../redis/redis.ts'

/** Every script that a KME runs in Redis. */
export const allScripts = (): readonly RedisScript[] => [...Object.values(poolScripts()), countPoints]

export const addRedisCommands = (program: Command): void => {
  program
    .command('redis')
    .description('what the Redis of a KME needs')
    .command('functions')
    .description('print the library for Redis Functions, for a Redis user that may not send scripts (redis.useFunctions)')
    .addHelpText('after', '\nLoad it on every master: kme redis functions | redis-cli -x FUNCTION LOAD REPLACE')
    .action(() => console.log(toFunctionLibrary(allScripts())))
}
