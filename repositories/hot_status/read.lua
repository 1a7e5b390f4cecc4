-- Return hot statuses that may be believed; where there is none, note that somebody is about to ask PostgreSQL.
--
-- KEYS[1]    the bookkeeping hash: epoch, run, seq, ticket, and "w:<workspace>" -> the seq of its latest invalidation
-- KEYS[2..]  status hashes
-- ARGV[1]    an epoch to begin, if there is none or this server is another than the one it was begun on
-- ARGV[2]    milliseconds that such a note lives
-- ARGV[3..]  the fields wanted
-- Returns    {epoch, seq, ticket, then for each key its fields' values, or nil}
--
-- The note is a hash without a status. It bears the number of the reader's ticket, and what is written later is written
-- only onto a note (or a status) that has stood there since before its writer asked PostgreSQL: see write.lua.
--#include epoch
local answer, missing = {epoch, tostring(seq), ''}, {}
local wanted = {'epoch', 'seq', 'workspace_id'}
for place = 3, #ARGV do
    wanted[#wanted + 1] = ARGV[place]
end
for place = 2, #KEYS do
    -- pcall: what somebody else put under this key may be no hash.
    local found = redis.pcall('HMGET', KEYS[place], unpack(wanted))
    answer[place + 2] = false
    local stands = not found.err and found[1] == epoch
    if stands then
        local written = tonumber(found[2]) or -1
        local invalidated = false
        if seq > written and found[3] then
            invalidated = tonumber(redis.call('HGET', KEYS[1], 'w:' .. found[3]) or '0') > written
        end
        if not invalidated then
            answer[place + 2] = {unpack(found, 4)}
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
        redis.call('PEXPIRE', key, ARGV[2])
    end
end
answer[3] = tostring(ticket)
return answer
