/** Operation that shows the alarms of this KME. */
import type { AlarmDirectory, AlarmRecord } from '../alarms/alarms.ts'
import type { components } from '../generated/admin.ts'
import type { AdminRoute } from './admin-route.ts'

type Alarm = components['schemas']['Alarm']

export const showAlarmsRoutes = ({ alarms }: { readonly alarms: AlarmDirectory }): AdminRoute[] => [
  {
    method: 'get',
    path: '/api/v1/alarms',
    scope: 'alarm:read',
    handle: async () => ({ json: { alarms: (await alarms.list()).map(toAlarm) } }),
  },
]

const toAlarm = (alarm: AlarmRecord): Alarm => ({
  name: alarm.name,
  severity: alarm.severity,
  text: alarm.text,
  subject: { ...alarm.subject },
  raisedAt: alarm.raisedAt.toISOString(),
  clearedAt: alarm.clearedAt?.toISOString() ?? null,
})
