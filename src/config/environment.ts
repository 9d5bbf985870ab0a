/** The only reader of environment variables in the KME proper. */
import { readFileSync } from 'node:fs'
import type { Config } from './config.ts'

/** The Redis URL: REDIS_URL if set, else the content of `redis.urlFile`; undefined when neither is there.
 *  @throws Error that names the file. */
export const redisUrl = (config: Config): string | undefined => {
  const fromEnvironment = process.env['REDIS_URL']
  if (fromEnvironment !== undefined && fromEnvironment !== '') return fromEnvironment
  const file = config.redis.urlFile
  if (file === undefined) return undefined
  try {
    return readFileSync(file, 'utf8').trim()
  } catch {
    throw new Error(`the file ${file} with the Redis URL cannot be read; create it or correct redis.urlFile`)
  }
}

/** The PostgreSQL URL: DATABASE_URL if set, else the content of `database.urlFile`.
 *  @throws Error that says what to do when neither is there. */
export const databaseUrl = (config: Config): string => {
  const fromEnvironment = process.env['DATABASE_URL']
  if (fromEnvironment !== undefined && fromEnvironment !== '') return fromEnvironment
  const file = config.database.urlFile
  if (file === undefined) throw new Error('no database: set DATABASE_URL or database.urlFile')
  try {
    return readFileSync(file, 'utf8').trim()
  } catch {
    throw new Error(`the file ${file} with the database URL cannot be read; create it or correct database.urlFile`)
  }
}
