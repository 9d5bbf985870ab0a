/** The only reader of environment variables in the KME proper. */
import { readFileSync } from 'node:fs'
import type { Config } from './config.ts'

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
