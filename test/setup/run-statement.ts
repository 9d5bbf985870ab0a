import pg from 'pg'

/** Runs one statement on a connection of its own. @returns its rows. */
export const runStatement = async <T>(databaseUrl: string, sql: string, parameters: readonly unknown[] = []): Promise<T[]> => {
  const client = new pg.Client({ connectionString: databaseUrl })
  // A connection that is cut fails the statement; nobody else needs to know.
  client.on('error', () => undefined)
  await client.connect()
  try {
    return (await client.query(sql, [...parameters])).rows as T[]
  } finally {
    await client.end()
  }
}
