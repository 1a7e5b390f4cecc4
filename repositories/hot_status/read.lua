-- Return hot statuses that may be believed; where there is none, note that somebody is about to ask PostgreSQL.
--
-- KEYS[1]    the bookkeeping hash: epoch, run, seq, ticket, and "w:<workspace>" -> the seq of its latest invalidation
-- KEYS[2..]  status hashes
-- ARGV[1..4] see epoch.lua
-- ARGV[5]    milliseconds that such a note lives
-- ARGV[6..]  the fields wanted
-- Returns    {epoch, seq, ticket, moved, then for each key its fields' values, or nil}
--
-- The note is a hash without a status. It bears the number of the reader's ticket, and what is written later is written
-- only onto a note (or a status) that has stood there since before its writer asked PostgreSQL: see write.lua.
--#include epoch
local answer, missing = {epoch, tostring(seq), '', broken}, {}
local wanted = {'epoch', 'seq', 'workspace_id'}
for place = 6, #ARGV do
    wanted[#wanted + 1] = ARGV[place]
end
for place = 2, #KEYS do
    -- pcall: what somebody else put under this key may be no hash.
    local found = redis.pcall('HMGET', KEYS[place], unpack(wanted))
    answer[place + 3] = false
    if found.err then
        aside(KEYS[place])
    end
    local stands = not found.err and found[1] == epoch
    if stands then
        local written = tonumber(found[2]) or -1
        local invalidated = false
        if seq > written and found[3] then
            local latest = tonumber(redis.call('HGET', KEYS[1], 'w:' .. found[3]) or '0')
            invalidated = not latest or latest > written
        end
        if not invalidated then
            answer[place + 3] = {unpack(found, 4)}
        end
    end
    if not stands then
        missing[#missing + 1] = KEYS[place]
    end
end
if #missing > 0 then
    ticket = redis.call('HINCRBY', KEYS[1], 'ticket', 1)
    for _, key in ipairs(missing) do
        redis.call('DEL', key)
        redis.call('HSET', key, 'epoch', epoch, 'born', ticket)
        redis.call('PEXPIRE', key, ARGV[5])
    end
end
answer[3] = tostring(ticket)
return answer
